"""Rendering: films and maps of the scene."""
