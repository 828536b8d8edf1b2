"""One try at one artifact, on any backend."""
