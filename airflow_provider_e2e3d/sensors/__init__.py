"""Sensors: waiting for a capture or an artifact in a DAG of your own."""
