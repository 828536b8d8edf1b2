"""The stage programs: photos in, a 3D scene out. They know nothing of Airflow."""

__version__ = "0.1.0"
