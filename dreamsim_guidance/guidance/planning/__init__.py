"""What guidance will cost, predicted from shapes before anything is run."""
