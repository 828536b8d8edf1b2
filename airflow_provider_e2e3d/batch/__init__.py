"""Many captures as one batch: which need a run, what became of them, and the page that tells it."""
