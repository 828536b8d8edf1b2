"""Runs one stage program: fetch, work, report, commit."""
