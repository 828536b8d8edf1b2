"""The DAGs that come with the provider; `E2E3DDagBundle` shows them to Airflow."""
