"""Training: where the shipped weights come from, and how they are made again."""
