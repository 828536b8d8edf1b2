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
        "operators": modules("operators.stage", "operators.reconstruction"),
        "hooks": modules("hooks.store"),
        "triggers": modules("triggers.job"),
        "bundles": modules("bundle"),
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
                    "cleanup_schedule": {
                        "description": "When `reconstruct_cleanup` runs by itself, as cron or a preset. Empty: never.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "0 3 * * 0",
                        "default": "@weekly",
                    },
                    "cleanup_dry_run": {
                        "description": "Whether `reconstruct_cleanup` only says what it would remove, unless its run "
                        "says otherwise.",
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": None,
                        "default": "True",
                    },
                },
            }
        },
    }
