"""Cropping: of a trained scene stays what it was photographed for."""
