"""The artifact store, on a disk or in a bucket."""
