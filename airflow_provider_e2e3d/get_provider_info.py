"""What Airflow's providers manager asks."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Name, modules, bundle and configuration of the provider (`airflow/provider_info.schema.json`)."""
    name = "E2E3D"

    def modules(*paths: str) -> list[dict[str, Any]]:
        return [{"integration-name": name, "python-modules": [f"airflow_provider_e2e3d.{path}" for path in paths]}]

    def option(description: str, *, kind: str = "string", default: str = "", example: str | None = None) -> Any:
        told = {"description": description, "version_added": "0.1.0", "type": kind, "default": default}
        return {**told, "example": example}

    return {
        "package-name": "airflow-provider-e2e3d",
        "name": name,
        "description": "Photos in a bucket become a 3D scene: structure from motion, Gaussian splatting, a web page.",
        "integrations": [{"integration-name": name, "external-doc-url": "", "tags": ["software"]}],
        "operators": modules("operators.stage", "operators.reconstruction", "operators.approval", "operators.scene"),
        "hooks": modules("hooks.store"),
        "triggers": modules("triggers.job", "triggers.capture", "triggers.polling"),
        "sensors": modules("sensors.capture", "sensors.artifact"),
        "bundles": modules("bundle"),
        "notifications": [
            "airflow_provider_e2e3d.notifications.notifiers.SceneSucceeded",
            "airflow_provider_e2e3d.notifications.notifiers.SceneFailed",
            "airflow_provider_e2e3d.notifications.notifiers.SceneWaits",
            "airflow_provider_e2e3d.pipelines.batch.notifier.BatchEnded",
        ],
        "extra-links": [
            "airflow_provider_e2e3d.operators.scene.SceneRunLink",
            *(
                f"airflow_provider_e2e3d.operators.links.{link}"
                for link in ("ArtifactLink", "JobLink", "SceneLink", "ReportLink")
            ),
        ],
        "config": {
            "e2e3d": {
                "description": "Reconstruction of 3D scenes.",
                "options": {
                    "profiles_file": option(
                        "YAML file of profiles: where stages run and where artifacts lie. Empty: the provider's own "
                        "file, which runs every stage on the worker.",
                        example="/opt/airflow/profiles.yaml",
                    ),
                    "watch_captures": option(
                        "Prefix below which reconstruct_on_upload looks for captures, a root of its profile or a place "
                        "below one. Empty: nothing is watched.",
                        example="s3://uploads",
                    ),
                    "watch_profile": option(
                        "Profile that opens the prefix and runs the stages. Empty: the first.",
                        example="workstation",
                    ),
                    "watch_marker": option(
                        "Name of a file that whoever uploads writes last. Empty: an upload is complete when nothing "
                        "came for watch_quiet_seconds.",
                        example="_DONE",
                    ),
                    "watch_quiet_seconds": option(
                        "How long nothing must have come. Longer than the upload of the largest file takes.",
                        kind="float",
                        default="120",
                    ),
                    "watch_min_photos": option(
                        "How many photos a capture must have at least; those in a zip are not counted.",
                        kind="integer",
                        default="5",
                    ),
                    "watch_poll_seconds": option("Pause between two listings.", kind="float", default="30"),
                    "watch_queue": option(
                        "URL of an SQS queue that the bucket tells of new objects. Then the prefix is listed only when "
                        "something came.",
                        example="https://sqs.eu-central-1.amazonaws.com/123456789012/uploads",
                    ),
                    "cleanup_schedule": option(
                        "When reconstruct_cleanup runs by itself, as cron or a preset. Empty: never.",
                        example="0 3 * * 0",
                        default="@weekly",
                    ),
                    "cleanup_dry_run": option(
                        "Whether reconstruct_cleanup only says what it would remove, unless its run says otherwise.",
                        kind="boolean",
                        default="True",
                    ),
                    "batch_captures": option(
                        "Captures of a reconstruct_batch that names none: a folder or an s3:// prefix with one folder "
                        "or zip a scene, or a CSV or JSON manifest.",
                        example="s3://uploads",
                    ),
                    "batch_schedule": option(
                        "Cron expression on which reconstruct_batch runs with batch_captures. Empty: only when "
                        "triggered.",
                        example="0 2 * * *",
                    ),
                    **{
                        f"notify_{way}_conn_id": option(
                            f"Airflow connection of {what} that is told when a scene's run or a batch has ended. "
                            "Empty: none is.",
                            example=f"e2e3d_{way}",
                        )
                        for way, what in {
                            "webhook": "a web address, which gets JSON,",
                            "slack": "an incoming webhook of Slack, Mattermost or Rocket.Chat",
                            "email": "an SMTP server",
                        }.items()
                    },
                    "notify_email_to": option(
                        "Whom e-mail goes to, addresses with commas between them.",
                        example="studio@example.org, me@example.org",
                    ),
                    "cpu_pool": option(
                        "Airflow pool of the stages that need no GPU. It must exist.",
                        example="e2e3d_cpu",
                        default="default_pool",
                    ),
                    "gpu_pool": option(
                        "Airflow pool of training and evaluation. It must exist.",
                        example="e2e3d_gpu",
                        default="default_pool",
                    ),
                },
            }
        },
    }
