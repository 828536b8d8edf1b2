"""Finds both packages, and fetches the viewer when they are built or installed; all else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import Command, find_packages, setup
from setuptools.command.build import build

sys.path.insert(0, str(Path(__file__).parent / "containers"))
from e2e3d_stages.publish import fetch_viewer


class TakeInViewer(Command):
    """Fetch the viewer's files into the source tree, where wheels and editable installs find them as package data."""

    description = "fetch the pinned viewer from the npm registry"
    user_options = []
    editable_mode = False

    def initialize_options(self):
        """Nothing to set."""

    def finalize_options(self):
        """Nothing to derive."""

    def run(self):
        """Fetch, unless the pinned version is there."""
        fetch_viewer.fetch()

    def get_source_files(self):
        """None: the files are package data."""
        return []

    def get_outputs(self):
        """None: `build_py` copies them."""
        return []

    def get_output_mapping(self):
        """None, for the same reason."""
        return {}


class Build(build):
    """The usual build, with the viewer before anything is copied."""

    sub_commands = [("take_in_viewer", None), *build.sub_commands]


setup(
    packages=[
        *find_packages(include=["airflow_provider_e2e3d*"]),
        "airflow_provider_e2e3d.dags",
        *find_packages("containers", include=["e2e3d_stages*"]),
    ],
    cmdclass={"build": Build, "take_in_viewer": TakeInViewer},
)
