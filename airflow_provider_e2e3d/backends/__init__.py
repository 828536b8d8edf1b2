"""Places where a stage program can run."""
