"""Scenes from every capture below a prefix, or from the rows of a manifest: the DAG `reconstruct_batch`."""
