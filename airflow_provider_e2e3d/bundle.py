"""The provider's DAGs as a bundle: one entry in `[dag_processor] dag_bundle_config_list` shows them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle


class E2E3DDagBundle(LocalDagBundle):
    """The folder of DAGs in this distribution."""

    def __init__(self, **kwargs: Any) -> None:
        package = import_module("airflow_provider_e2e3d.dags")
        super().__init__(path=str(Path(package.__path__[0])), **kwargs)
