"""Where stages run and artifacts lie, as whoever runs Airflow wrote it."""
