"""Statistics of judgments: agreement, intervals, psychometric fits, Bradley-Terry, rank correlation."""
