"""Evaluation: how close the scene comes to photos that it was not trained on, and what compression costs."""
