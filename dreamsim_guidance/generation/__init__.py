"""Making data like NIGHTS: pictures generated from a plan, and triplets of variations from them."""
