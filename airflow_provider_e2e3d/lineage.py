"""What a stage read and wrote, as OpenLineage has it; imported only where Airflow's OpenLineage provider asks for it.

Names of datasets by https://openlineage.io/docs/spec/naming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from airflow.providers.openlineage.extractors import OperatorLineage
from attrs import define, field
from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import RunFacet, dataset_version_dataset, output_statistics_output_dataset

from e2e3d_stages.contract.messages import Manifest, Reference


@define
class StageRunFacet(RunFacet):
    """How an artifact was made, below `e2e3d` of a task's run.

    :param reused: whether it was there before.
    :param seconds: that its program took, also where that was for another run.
    :param figures: that the stage measured.
    """

    stage: str
    key: str
    attempt: int
    reused: bool
    seconds: float
    params: dict[str, Any] = field(factory=dict)
    figures: dict[str, Any] = field(factory=dict)

    @staticmethod
    def _get_schema() -> str:
        # There is no published one; its fields are those above.
        return "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet"


def lineage_of(inputs: Mapping[str, Any], made: tuple[Manifest, Reference] | None) -> OperatorLineage[Any, Any]:
    """A stage's datasets and its figures.

    :param inputs: by stage, references to what it reads.
    :param made: the artifact; None where there is none.
    """
    read = [_read(reference) for reference in map(Reference.model_validate, inputs.values())]
    if made is None:
        return OperatorLineage(inputs=read)
    manifest, reference = made
    if manifest.capture is not None:
        read.append(InputDataset(*dataset_name(manifest.capture)))
    statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        size=manifest.total_bytes, fileCount=len(manifest.files)
    )
    written = OutputDataset(
        *dataset_name(reference.uri), facets=_version(reference), outputFacets={"outputStatistics": statistics}
    )
    facet = StageRunFacet(
        stage=manifest.stage,
        key=manifest.key,
        attempt=manifest.attempt,
        reused=reference.reused,
        seconds=manifest.usage.wall_seconds,
        params=manifest.params,
        figures=manifest.metrics,
    )
    return OperatorLineage(inputs=read, outputs=[written], run_facets={"e2e3d": facet})


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name of the dataset at an address."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return "file", parts.path
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def _read(reference: Reference) -> InputDataset:
    return InputDataset(*dataset_name(reference.uri), facets=_version(reference))


def _version(reference: Reference) -> dict[str, Any]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=reference.digest)}
