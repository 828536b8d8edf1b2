"""Data is never a template: rendered is what the DAG's author wrote, and nothing that another task handed on.

Airflow takes the plain values of a mapped XCom (`expand_kwargs`) for the author's words and renders them again, so that
the name of a folder in a bucket could run code in the worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.definitions.mappedoperator import MappedOperator

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context


class AuthoredTemplates(BaseOperator):
    """Base of every operator and sensor of this provider: its templates are those that stand in the DAG's file."""

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """As Airflow does it; text that nobody wrote into the DAG stays as it is."""
        if isinstance(content, str) and not self._is_authored(content):
            return content
        return super().render_template(content, context, jinja_env, seen_oids)

    def _is_authored(self, text: str) -> bool:
        dag = self.get_dag()
        task = dag.task_dict.get(self.task_id) if dag else None
        if not isinstance(task, MappedOperator):
            # What an XCom gives to an operator that is not mapped, Airflow resolves and does not render.
            return True
        # The very object: equal text may have come from anywhere.
        return any(text is written for written in _strings([task.partial_kwargs, task.expand_input.value]))


def _strings(value: Any) -> Iterator[str]:
    """Every text in what an author gave to a mapped task; references to other tasks hold none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, (list, tuple, set)):
        for each in value:
            yield from _strings(each)
