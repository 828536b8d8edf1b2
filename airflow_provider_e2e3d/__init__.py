"""E2E3D on Airflow: photos in a bucket become a 3D scene."""

from e2e3d_stages import __version__

__all__ = ["__version__"]
