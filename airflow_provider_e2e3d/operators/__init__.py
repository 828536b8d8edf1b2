"""Operators: one a stage."""
