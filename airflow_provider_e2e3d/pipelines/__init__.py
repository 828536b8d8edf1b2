"""The tasks of each shipped DAG."""
