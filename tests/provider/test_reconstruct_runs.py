"""The DAG's promises, with stage programs that do what the test says: reuse, retries, gates, refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError

from airflow_provider_e2e3d.backends.base import Handle, JobSpec
from airflow_provider_e2e3d.backends.local.backend import LocalBackend
from airflow_provider_e2e3d.jobs import making
from airflow_provider_e2e3d.pipelines.form import reconstruction_params
from airflow_provider_e2e3d.pipelines.reconstruct import plan
from e2e3d_stages.contract.messages import CaptureListing, Infrastructure, InvalidRequest, Manifest, Reference
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Storage
from e2e3d_stages.store.captures import list_capture_files
from tests.airflow_runs import Outcome
from tests.conftest import ALWAYS
from tests.provider.conftest import Script

Run = Callable[..., Outcome]


def manifest_of(outcome: Outcome, stage: str) -> Manifest:
    reference = Reference.model_validate(outcome.results[stage])
    found = ArtifactStore.open(reference.uri.partition("/artifacts/")[0]).manifest(
        stage, reference.key, digest=reference.digest
    )
    assert found is not None
    return found


@pytest.mark.slow
def test_the_same_again_reuses_every_stage_and_says_so(run: Run, script: Script, tmp_path: Path) -> None:
    first = run("publish")
    assert first.state == "success"
    assert script.calls == ALWAYS
    assert first.reused == []
    # It goes through Airflow's database.
    assert all(len(str(handed_on)) < 4000 for handed_on in first.results.values())
    script.forget()
    second = run("publish")
    assert second.state == "success"
    assert script.calls == []
    assert sorted(second.reused) == sorted(ALWAYS)
    assert second.log.count("Reused: made before by reconstruct/") == 6
    runs = [folder.name for folder in (tmp_path / "store" / "scenes" / "statue").iterdir() if folder.is_dir()]
    assert len(runs) == 2


@pytest.mark.slow
def test_another_training_parameter_reuses_ingest_and_sfm_and_the_record_says_so(
    run: Run, script: Script, captures: Path, tmp_path: Path
) -> None:
    run("sfm")
    script.forget()
    # As a form sends it, with the fields that nobody touched.
    outcome = run("publish", train_iterations=123, profile="local", scene=None, notify=True, min_placed_photos=5)
    assert script.calls == ALWAYS[2:]
    assert sorted(outcome.reused) == ["ingest", "sfm"]
    assert manifest_of(outcome, "train").params["iterations"] == 123
    record = json.loads((tmp_path / "store/scenes/statue/latest.json").read_text())
    assert [stage for stage, made in record["stages"].items() if made["reused"]] == ["ingest", "sfm"]
    assert record["stages"]["train"]["backend"] == "local"
    assert record["conf"] == {"capture": str(captures / "statue"), "train_iterations": 123}
    assert record["capture"] == (captures / "statue").as_uri()
    assert (record["dag_id"], record["profile"], record["preset"]) == ("reconstruct", "local", "draft")
    assert record["price"] == 0
    assert 0 < record["seconds"] < 600


@pytest.mark.slow
def test_a_mesh_is_made_only_where_it_is_asked_for_and_of_what_is_there(run: Run, script: Script) -> None:
    without = run("publish")
    assert without.state == "success"
    assert "mesh" not in without.results
    assert "mesh" not in manifest_of(without, "publish").inputs
    script.forget()
    outcome = run("publish", mesh_voxels=64)
    assert outcome.state == "success"
    assert script.calls == ["mesh", "publish"]
    assert manifest_of(outcome, "mesh").params["voxels"] == 64
    assert manifest_of(outcome, "publish").inputs["mesh"].key == outcome.results["mesh"]["key"]


@pytest.mark.slow
def test_a_crop_goes_to_every_stage_that_shows_the_scene_and_nothing_is_trained_anew(run: Run, script: Script) -> None:
    run("publish")
    script.forget()
    outcome = run("publish", crop_keep="subject", export_points=True)
    assert outcome.state == "success"
    assert sorted(script.calls) == ["compress", "crop", "evaluate", "export", "publish"]
    for stage in ("compress", "evaluate", "export", "publish"):
        assert manifest_of(outcome, stage).inputs["crop"].key == outcome.results["crop"]["key"]
    script.forget()
    # Whole again, it is what was there before.
    assert run("publish").state == "success"
    assert script.calls == []


@pytest.mark.slow
def test_force_makes_a_stage_and_what_follows_anew_and_keeps_the_older(run: Run, script: Script) -> None:
    first = run("compress")
    script.forget()
    forced = run("compress", force=["train"])
    assert script.calls == ["train", "compress"]
    assert forced.results["train"]["key"] != first.results["train"]["key"]
    assert manifest_of(first, "train")
    script.forget()
    assert run("compress").results["train"]["key"] == forced.results["train"]["key"]
    assert script.calls == []


@pytest.mark.slow
def test_other_photos_under_the_same_name_are_another_scene(run: Run, script: Script, captures: Path) -> None:
    run("sfm")
    script.forget()
    (captures / "statue" / "1.jpg").write_bytes(b"another")
    run("sfm")
    assert script.calls == ["ingest", "sfm"]


@pytest.mark.slow
def test_a_capture_that_changes_while_ingest_starts_becomes_a_scene_as_it_is_then(
    run: Run, script: Script, captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def and_then_another_photo_comes(storage: Storage) -> CaptureListing:
        listing = list_capture_files(storage)
        (captures / "statue" / "1.jpg").write_bytes(b"a better photo")
        return listing

    monkeypatch.setattr(making, "list_capture_files", and_then_another_photo_comes)
    outcome = run("ingest")
    assert (outcome.state, outcome.tries["ingest"]) == ("success", 2)
    assert "1 of the capture's 1 files changed" in outcome.log
    # The program that met another capture left nothing.
    assert script.calls == ["ingest"]


@pytest.mark.slow
def test_after_out_of_memory_the_retry_asks_for_less_and_says_so(run: Run, script: Script) -> None:
    script["train"] = ["out of memory", "succeed"]
    outcome = run("train")
    assert outcome.state == "success"
    small = manifest_of(outcome, "train")
    script["train"] = ["succeed"]
    asked = manifest_of(run("train"), "train")
    assert small.degraded_from == asked.key
    assert small.params["max_gaussians"] < asked.params["max_gaussians"]


@pytest.mark.slow
def test_a_submission_that_was_refused_keeps_no_later_try_waiting(
    run: Run, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    living = LocalBackend.submit
    refusals = [Infrastructure("There is no room for the job.")]

    def refuse_once(self: LocalBackend, job: JobSpec) -> Handle:
        if refusals:
            raise refusals.pop()
        return living(self, job)

    monkeypatch.setattr(LocalBackend, "submit", refuse_once)
    outcome = run("ingest")
    assert outcome.state == "success"
    assert outcome.tries["ingest"] == 2
    assert script.calls == ["ingest"]
    assert "There is no room for the job." in outcome.log
    assert "Waiting:" not in outcome.log


@pytest.mark.slow
@pytest.mark.parametrize(("word", "tries"), [("crash", 3), ("infrastructure", 6)])
def test_a_passing_failure_is_tried_again_as_often_as_its_kind_deserves(
    run: Run, script: Script, word: str, tries: int
) -> None:
    script["sfm"] = [word]
    outcome = run("train")
    assert outcome.state == "failed"
    assert script.calls == ["ingest", *["sfm"] * tries]
    assert outcome.states["train"] == "upstream_failed"


@pytest.mark.slow
def test_a_poor_sfm_result_ends_the_run_before_training_and_names_the_photos(run: Run, script: Script) -> None:
    script["sfm"] = ["poor"]
    outcome = run("train")
    assert outcome.state == "failed"
    assert script.calls == ["ingest", "sfm"]
    assert outcome.tries["sfm"] == 1
    assert "only 2 of 10 photos could be placed" in outcome.log
    assert "7.jpg: no overlap" in outcome.log
    script.forget()
    lenient = run("sfm", min_placed_share=0.1, min_placed_photos=2)
    assert lenient.state == "success"
    assert "sfm" in lenient.reused


@pytest.mark.slow
def test_photos_from_one_place_end_the_run_before_training(run: Run, script: Script) -> None:
    script["sfm"] = ["turned"]
    outcome = run("train")
    assert outcome.state == "failed"
    assert script.calls == ["ingest", "sfm"]
    assert "do not become a scene: the camera only turned" in outcome.log


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"train_iteration": 5}, "no parameter 'train_iteration'"),
        ({"profile": "cloud"}, "cloud"),
        ({"preset": "ultra"}, "ultra"),
        ({"scene": "../../etc"}, "etc"),
        ({"capture": "/etc"}, "outside the places"),
        ({"capture": "captures/statue"}, "no place a capture can be"),
        ({"capture": "s3://elsewhere/statue"}, "outside the places"),
        ({"train_iterations": -1}, "-1"),
        ({"force": ["bake"]}, "bake"),
    ],
)
def test_what_cannot_work_is_refused(profiles: Path, captures: Path, conf: dict[str, object], words: str) -> None:
    with pytest.raises((InvalidRequest, ParamValidationError), match=re.escape(words)):
        planned({"capture": str(captures / "statue"), **conf})


def planned(conf: dict[str, object]) -> dict[str, object]:
    """What Airflow's trigger and the first task make of a conf."""
    params = ParamsDict(reconstruction_params())
    params.update({name: value for name, value in conf.items() if name in params})
    return plan(params.validate(), conf)


def test_a_path_that_climbs_out_of_its_root_is_refused(profiles: Path, captures: Path) -> None:
    (captures / "link").symlink_to("/etc")
    for capture in (captures / ".." / "script", captures / "link"):
        with pytest.raises(InvalidRequest, match="outside the places"):
            planned({"capture": str(capture)})
    assert planned({"capture": str(captures / "statue")})


def test_what_is_refused_ends_the_run_before_anything_is_read_and_without_a_retry(run: Run, script: Script) -> None:
    outcome = run("ingest", capture="/etc")
    assert outcome.state == "failed"
    assert outcome.tries["plan"] == 1
    assert outcome.states["ingest"] == "upstream_failed"
    assert "outside the places" in outcome.log
    assert script.calls == []


@pytest.mark.slow
def test_a_capture_that_is_not_there_is_told_without_a_retry(run: Run, script: Script, captures: Path) -> None:
    outcome = run("ingest", capture=str(captures / "nowhere"))
    assert outcome.state == "failed"
    assert outcome.tries["ingest"] == 1
    assert "There is no capture at" in outcome.log
    assert script.calls == []
