"""What attention is worth, as numbers: what trained gates do, and what the network loses without what they do."""
