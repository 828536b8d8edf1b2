"""What Airflow's providers manager asks."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Name, modules, bundle and configuration of the provider (`airflow/provider_info.schema.json`)."""
    name = "E2E3D"

    def modules(*paths: str) -> list[dict[str, Any]]:
        return [{"integration-name": name, "python-modules": [f"airflow_provider_e2e3d.{path}" for path in paths]}]

    return {
        "package-name": "airflow-provider-e2e3d",
        "name": name,
        "description": "Photos in a bucket become a 3D scene: structure from motion, Gaussian splatting, a web page.",
        "integrations": [{"integration-name": name, "external-doc-url": "", "tags": ["software"]}],
        "operators": modules("operators.stage", "operators.reconstruction", "operators.scene"),
        "hooks": modules("hooks.store"),
        "triggers": modules("triggers.job"),
        "bundles": modules("bundle"),
        "extra-links": ["airflow_provider_e2e3d.operators.scene.SceneRunLink"],
        "config": {
            "e2e3d": {
                "description": "Reconstruction of 3D scenes.",
                "options": {
                    "profiles_file": {
                        "description": "YAML file of profiles: where stages run and where artifacts lie. Empty: the "
                        "provider's own file, which runs every stage on the worker.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/opt/airflow/profiles.yaml",
                        "default": "",
                    },
                    "batch_captures": {
                        "description": "Captures of a `reconstruct_batch` that names none: a folder or an s3:// prefix "
                        "with one folder or zip a scene, or a CSV or JSON manifest.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://uploads",
                        "default": "",
                    },
                    "batch_schedule": {
                        "description": "Cron expression on which `reconstruct_batch` runs with `batch_captures`. "
                        "Empty: only when triggered.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "0 2 * * *",
                        "default": "",
                    },
                    "cpu_pool": {
                        "description": "Airflow pool of the stages that need no GPU. It must exist.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "e2e3d_cpu",
                        "default": "default_pool",
                    },
                    "gpu_pool": {
                        "description": "Airflow pool of training and evaluation. It must exist.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "e2e3d_gpu",
                        "default": "default_pool",
                    },
                },
            }
        },
    }
