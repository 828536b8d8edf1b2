"""Publishing: one page that shows the scene, one that says how good it is and where it came from."""
