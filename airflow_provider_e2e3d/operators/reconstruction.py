"""One thin operator a stage, for the shipped DAG and for people's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.sdk import TriggerRule
from airflow.sdk.log import redact  # type: ignore[attr-defined]  # where common.compat has it from

from airflow_provider_e2e3d.exceptions import QualityGateFailed
from airflow_provider_e2e3d.operators.approval import Approval
from airflow_provider_e2e3d.operators.links import ReportLink, SceneLink, is_on_the_web, scene_address
from airflow_provider_e2e3d.operators.stage import StageOperator, owner_of
from airflow_provider_e2e3d.profiles.file import profile_named
from airflow_provider_e2e3d.scenes.assets import OUTLETS, announce
from airflow_provider_e2e3d.scenes.layout import lay_out
from airflow_provider_e2e3d.scenes.outcome import FILM, FOLDER, METRICS, PAGE
from airflow_provider_e2e3d.scenes.record import Run, read_record
from e2e3d_stages.contract.figures import PLACED, UPLOADED, key_metrics
from e2e3d_stages.contract.messages import InvalidRequest, Manifest, Reference, StageName, now
from e2e3d_stages.render.spec import FILM as FLIGHT
from e2e3d_stages.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from airflow.sdk import Context

# From this share of the matching pairs on, of which a turn explains all that changed, the camera did not move.
TURNED_SHARE = 0.7


class IngestOperator(StageOperator):
    """Photos become an upright, resized set with what is known of their cameras.

    :param capture: where the photos are: a prefix, one zip or one film. (templated)
    """

    def __init__(self, *, capture: str, **kwargs: Any) -> None:
        super().__init__(stage="ingest", capture=capture, **kwargs)


class SfmOperator(StageOperator):
    """Photos become camera poses and a sparse cloud; a result too poor to train on fails here, before a GPU is rented.

    :param ingest: what `IngestOperator` returned. (templated)
    :param min_placed_share: share of the uploaded photos that must be placed. (templated)
    :param min_placed_photos: number of photos that must be placed. (templated)
    :param min_points_per_photo: points that a placed photo must see, in the median. (templated)
    """

    template_fields: Sequence[str] = (
        *StageOperator.template_fields,
        "min_placed_share",
        "min_placed_photos",
        "min_points_per_photo",
    )

    def __init__(
        self,
        *,
        ingest: Any,
        min_placed_share: Any = 0.5,
        min_placed_photos: Any = 5,
        min_points_per_photo: Any = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(stage="sfm", inputs={"ingest": ingest}, **kwargs)
        self.min_placed_share = min_placed_share
        self.min_placed_photos = min_placed_photos
        self.min_points_per_photo = min_points_per_photo

    def after_collect(self, context: Context, store: ArtifactStore, manifest: Manifest, reference: Reference) -> None:
        """Refuse what cannot become a scene; of a poor one the manifest's own warnings tell."""
        ingested = store.manifest("ingest", manifest.inputs["ingest"].key)
        metrics = {"sfm": manifest.metrics, **({"ingest": ingested.metrics} if ingested else {})}
        placed: int = PLACED.of_metrics(metrics)
        uploaded: int = UPLOADED.of_metrics(metrics) or manifest.metrics["photos_given"]
        share = placed / uploaded
        points = manifest.metrics["points_per_photo_median"] or 0
        problems = []
        if share < float(self.min_placed_share):
            problems.append(f"only {placed} of {uploaded} photos could be placed ({share:.0%})")
        if placed < int(self.min_placed_photos):
            problems.append(
                f"{placed} placed {'photo is' if placed == 1 else 'photos are'} fewer than {self.min_placed_photos}"
            )
        if (metrics["sfm"].get("turned_share") or 0) >= TURNED_SHARE:
            problems.append("the camera only turned, and from one place nothing has a depth")
        if points < float(self.min_points_per_photo):
            problems.append(f"a placed photo sees {points:.0f} points, fewer than {self.min_points_per_photo}")
        if problems:
            raise QualityGateFailed(
                f"These photos do not become a scene: {'; '.join(problems)}.\n{_left_out(store, manifest)}".strip(),
                hint="Take photos of one still thing from all around, each overlapping its neighbours by two thirds, "
                "sharp and evenly lit; then trigger again.",
            )


def _left_out(store: ArtifactStore, manifest: Manifest) -> str:
    """A line for each photo that was not placed, with the likely reason."""
    photos = json.loads(store.storage.read(store.file_path(manifest, "photos.json")))
    return "\n".join(f"  {photo['source']}: {photo['reason']}" for photo in photos if not photo["supported"])


class TrainOperator(StageOperator):
    """Poses and points become Gaussians.

    :param sfm: what `SfmOperator` returned. (templated)
    :param approval: what `ApproveTrainingOperator` returned, where the DAG has one: its parameters are trained with; it
        is skipped where nobody was asked. (templated)
    """

    template_fields: Sequence[str] = (*StageOperator.template_fields, "approval")

    def __init__(self, *, sfm: Any, approval: Any = None, **kwargs: Any) -> None:
        if approval is not None:
            kwargs.setdefault("trigger_rule", TriggerRule.NONE_FAILED)
        super().__init__(stage="train", inputs={"sfm": sfm}, **kwargs)
        self.approval = approval

    def execute(self, context: Context) -> dict[str, Any]:
        """See `StageOperator.execute`."""
        if self.approval is not None:
            self.parameters = Approval.model_validate(self.approval).train
        return super().execute(context)


class CropOperator(StageOperator):
    """What lies around the subject goes; skipped where the scene stays whole.

    :param sfm: what `SfmOperator` returned. (templated)
    :param train: what `TrainOperator` returned. (templated)
    """

    def __init__(self, *, sfm: Any, train: Any, **kwargs: Any) -> None:
        super().__init__(stage="crop", inputs={"sfm": sfm, "train": train}, **kwargs)


class CompressOperator(StageOperator):
    """Gaussians become files small enough for a web page.

    :param train: what `TrainOperator` returned. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one; skipped, it stops nothing. (templated)
    """

    def __init__(self, *, train: Any, crop: Any = None, **kwargs: Any) -> None:
        super().__init__(stage="compress", inputs={"train": train, "crop": crop}, **kwargs)


class EvaluateOperator(StageOperator):
    """The scene is compared with photos it has not seen, before and after compression.

    :param sfm: what `SfmOperator` returned. (templated)
    :param train: what `TrainOperator` returned. (templated)
    :param compress: what `CompressOperator` returned. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one. (templated)
    """

    def __init__(self, *, sfm: Any, train: Any, compress: Any, crop: Any = None, **kwargs: Any) -> None:
        inputs = {"sfm": sfm, "train": train, "compress": compress, "crop": crop}
        super().__init__(stage="evaluate", inputs=inputs, **kwargs)


class MeshOperator(StageOperator):
    """Gaussians become triangles; skipped where no mesh is asked for.

    :param sfm: what `SfmOperator` returned. (templated)
    :param train: what `TrainOperator` returned. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one. (templated)
    """

    def __init__(self, *, sfm: Any, train: Any, crop: Any = None, **kwargs: Any) -> None:
        super().__init__(stage="mesh", inputs={"sfm": sfm, "train": train, "crop": crop}, **kwargs)


class RenderOperator(StageOperator):
    """A film and a map of the scene; skipped where none is asked for.

    :param sfm: what `SfmOperator` returned. (templated)
    :param train: what `TrainOperator` returned. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one. (templated)
    """

    def __init__(self, *, sfm: Any, train: Any, crop: Any = None, **kwargs: Any) -> None:
        super().__init__(stage="render", inputs={"sfm": sfm, "train": train, "crop": crop}, **kwargs)


class ExportOperator(StageOperator):
    """Files for other programs; skipped where none is asked for.

    :param sfm: what `SfmOperator` returned. (templated)
    :param train: what `TrainOperator` returned. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one. (templated)
    """

    def __init__(self, *, sfm: Any, train: Any, crop: Any = None, **kwargs: Any) -> None:
        super().__init__(stage="export", inputs={"sfm": sfm, "train": train, "crop": crop}, **kwargs)


class PublishOperator(StageOperator):
    """Everything becomes a page, laid out under the scene's name in every run, also when the page was there before.

    Its success is an event of the assets `e2e3d_scene` and `e2e3d_scene/<scene>`, with the scene's figures.

    :param scene: a slug. (templated)
    :param ingest: what `IngestOperator` returned; so for the other stages. (templated)
    :param crop: what `CropOperator` returned, where the DAG has one; skipped, it stops nothing. (templated)
    :param mesh: so for `MeshOperator`. (templated)
    :param render: so for `RenderOperator`. (templated)
    :param export: so for `ExportOperator`. (templated)
    :param approval: what `ApproveTrainingOperator` returned, where the DAG has one, for the run's record. (templated)
    :param preset: what filled in the parameters that nobody gave, for the report to tell them apart. (templated)
    """

    template_fields: Sequence[str] = (*StageOperator.template_fields, "scene", "preset", "approval")
    operator_extra_links = (SceneLink(), ReportLink(), *StageOperator.operator_extra_links)

    def __init__(
        self,
        *,
        scene: Any,
        ingest: Any,
        sfm: Any,
        train: Any,
        compress: Any,
        evaluate: Any,
        crop: Any = None,
        mesh: Any = None,
        render: Any = None,
        export: Any = None,
        approval: Any = None,
        preset: Any = None,
        **kwargs: Any,
    ) -> None:
        inputs = {"ingest": ingest, "sfm": sfm, "train": train, "compress": compress, "evaluate": evaluate}
        inputs |= {"crop": crop, "mesh": mesh, "render": render, "export": export}
        kwargs["outlets"] = [*OUTLETS, *kwargs.get("outlets", ())]
        super().__init__(stage="publish", inputs=inputs, **kwargs)
        self.scene = scene
        self.approval = approval
        self.preset = preset

    def after_collect(self, context: Context, store: ArtifactStore, manifest: Manifest, reference: Reference) -> None:
        """Lay the page and the deliverables out for people."""
        inputs = {name: Reference.model_validate(each) for name, each in self.given.items()}
        references: dict[StageName, Reference] = {**inputs, "publish": reference}
        found = {stage: store.manifest(stage, each.key, digest=each.digest) for stage, each in references.items()}
        manifests: dict[str, Manifest] = {stage: manifest for stage, manifest in found.items() if manifest is not None}
        uri = lay_out(store, self._run(context, references), manifests)
        address = profile_named(self.profile).address(uri)
        page = f"{address}/index.html"
        SceneLink().push(context, scene_address(uri))
        ReportLink().push(context, f"{address if is_on_the_web(address) else scene_address(uri)}/report.html")
        self.log.info("The scene is at %s", page)
        told = {
            PAGE: page,
            METRICS: key_metrics({stage: manifest.metrics for stage, manifest in manifests.items()}),
            FOLDER: uri.removeprefix(f"{store.storage.uri}/"),
        }
        if "render" in manifests and any(file.path == FLIGHT for file in manifests["render"].files):
            told[FILM] = f"{address}/{FLIGHT}"
        for key, value in told.items():
            context["ti"].xcom_push(key=key, value=value)
        announce(context, read_record(store.storage, f"{told[FOLDER]}/run.json"), page)

    def _run(self, context: Context, references: Mapping[StageName, Reference]) -> Run:
        """What Airflow knows of this run."""
        run = context["dag_run"]
        # `airflow dags test` has none.
        bundle = getattr(context["ti"], "bundle_instance", None)
        usual = context["dag"].params
        # Airflow's form sends every field: what it suggests itself was not asked for.
        asked = {k: v for k, v in (run.conf or {}).items() if k not in usual or v != usual.get_param(k).value}
        # As in Airflow's own pages, what is named like a secret is not told.
        conf: Any = redact(asked)
        return Run(
            scene=self.scene,
            id=run.run_id,
            owner=owner_of(context),
            started=run.start_date or run.run_after,
            ended=now(),
            dag_id=run.dag_id,
            bundle=bundle and {"name": bundle.name, "version": bundle.version},
            profile=self.profile,
            preset=self.preset,
            conf=conf,
            approval=Approval.model_validate(self.approval).told if self.approval else None,
            capture=self._capture(asked),
            reused=[stage for stage, each in references.items() if each.reused],
        )

    def _capture(self, asked: Mapping[str, Any]) -> str | None:
        """The address of the run's capture; None where a DAG of another kind calls something else so."""
        with suppress(InvalidRequest):
            return profile_named(self.profile).admit(str(asked["capture"])) if asked.get("capture") else None
        return None
