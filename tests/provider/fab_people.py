"""Fills a database with FAB's tables and people and two runs; for a process of its own, whose environment names it."""

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.providers.fab.auth_manager.models.db import FABDBManager
from airflow.utils.session import create_session

from tests.provider.airflow_rows import Row, put_run

RUN = "manual__2026-11-20"
KEY = "0" * 32
PASSWORD = "a password"
# Who may read what; the resources are FAB's own words. A role of FAB's own is given by its name.
PEOPLE = {
    "nobody": [],
    "anna": "Viewer",
    "otto": ["DAG:other", "DAG Runs", "Task Instances", "XComs", "Website"],
    "rita": ["DAG:reconstruct", "DAG Runs", "Website"],
}


def main() -> None:
    """Make them."""
    with create_session() as session:
        FABDBManager(session).initdb()
    with get_application_builder() as builder:
        builder.sm.sync_roles()
        for name, readable in PEOPLE.items():
            if isinstance(readable, str):
                role = builder.sm.find_role(readable)
            else:
                role = builder.sm.add_role(f"of {name}")
                for resource in readable:
                    builder.sm.add_permission_to_role(role, builder.sm.create_permission("can_read", resource))
            assert builder.sm.add_user(name, name, name, f"{name}@example.org", role, PASSWORD)
    place = {"profile": "local", "stage": "train", "key": KEY, "attempt": 1}
    put_run(RUN, "running", Row("train", "running", "TrainOperator", place))
    put_run("x", "success", Row("hello", "success", "BashOperator"), dag_id="other")


if __name__ == "__main__":
    main()
