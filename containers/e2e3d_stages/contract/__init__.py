"""What the two worlds say to each other."""
