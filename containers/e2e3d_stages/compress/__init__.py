"""Compression: a trained scene becomes a small SOG file for the web and an SPZ file for other viewers."""
