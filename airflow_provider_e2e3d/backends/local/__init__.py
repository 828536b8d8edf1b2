"""Processes on the machine that Airflow's task runs on."""
