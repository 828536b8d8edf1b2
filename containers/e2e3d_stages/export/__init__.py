"""Exports: the scene and what it was made of, as other programs want them."""
