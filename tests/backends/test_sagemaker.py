"""Stages as training jobs: what only SageMaker knows; what every backend does alike is in test_conformance.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_provider_e2e3d.backends.sagemaker.settings import SageMakerSettings
from airflow_provider_e2e3d.backends.sagemaker.status import job_status
from airflow_provider_e2e3d.jobs.attempt import Attempt
from airflow_provider_e2e3d.profiles.file import profile_named, read_profiles
from e2e3d_stages.contract.messages import FailureCode, Infrastructure, InvalidRequest
from tests.backends.aws_api import Refused
from tests.backends.places import KEY, SageMakerPlace, follow
from tests.backends.sagemaker_api import CAPACITY, LOG_GROUP, NO_IMAGE, NO_MEMORY, SPOT_SHARE
from tests.conftest import until

pytestmark = pytest.mark.slow

ROLE = "arn:aws:iam::123456789012:role/e2e3d-stages"
SETTINGS = {"backend": "sagemaker", "RoleArn": ROLE, "ResourceConfig": {"InstanceType": "ml.g5.xlarge"}}
IN_USE = (
    "The account-level service limit 'ml.m5.xlarge for training job usage' is 2 Instances, with current utilization "
    "of 2 Instances and a request delta of 1 Instances. Please contact AWS support to request an increase."
)


@pytest.fixture
def place(make_place: Callable[[str], SageMakerPlace]) -> SageMakerPlace:
    """An account of the test's own."""
    return make_place("sagemaker")


@pytest.fixture
def waiting(place: SageMakerPlace) -> Attempt:
    """A job of ingest that runs until it is told to go on."""
    place.script["ingest"] = ["wait"]
    made = place.attempt()
    until(lambda: place.script.calls)
    return made


def go_on(place: SageMakerPlace) -> None:
    """Tell it."""
    (place.script.folder / "go on").touch()


def request_of(place: SageMakerPlace, **settings: Any) -> dict[str, Any]:
    """What SageMaker is asked for a job of ingest, which gets no instance."""
    place.sagemaker.instances.clear()
    place.attempt(**settings)
    return place.sagemaker.only_job.request


# The request


def test_a_job_says_whose_it_is_and_what_to_do(place: SageMakerPlace) -> None:
    request = request_of(place)
    job, store = place.job(), place.profile["store"]
    assert request["TrainingJobName"] == job.name
    assert request["HyperParameters"] == {"request_uri": json.dumps(job.request_uri)}
    assert request["AlgorithmSpecification"] == {
        "TrainingImage": place.settings["image"],
        "TrainingInputMode": "File",
    }
    assert request["OutputDataConfig"] == {"S3OutputPath": f"{store}/sagemaker"}
    assert request["ResourceConfig"] == {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 100}
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 86_400}
    assert request["Tags"] == [
        {"Key": "e2e3d.stage", "Value": "ingest"},
        {"Key": "e2e3d.key", "Value": KEY},
        {"Key": "e2e3d.attempt", "Value": "1"},
        {"Key": "e2e3d.owner", "Value": "test"},
    ]


def test_every_field_of_the_api_reaches_it_under_its_own_name(place: SageMakerPlace) -> None:
    settings = yaml.safe_load("""
        AlgorithmSpecification:
          MetricDefinitions: [{Name: psnr, Regex: "psnr ([0-9.]+)"}]
        ResourceConfig: {InstanceType: ml.g5.xlarge, VolumeSizeInGB: 300, VolumeKmsKeyId: a-key}
        VpcConfig: {SecurityGroupIds: [sg-0123], Subnets: [subnet-0123]}
        OutputDataConfig: {KmsKeyId: a-key}
        Tags: [{Key: team, Value: scans}, {Key: e2e3d.stage, Value: mine}]
        EnableManagedSpotTraining: true
        StoppingCondition: {MaxRuntimeInSeconds: 7200, MaxPendingTimeInSeconds: 7200}
        RetryStrategy: {MaximumRetryAttempts: 2}
        ExperimentConfig: {ExperimentName: scenes}
        ProfilerConfig: {DisableProfiler: true}
        CheckpointConfig: {S3Uri: "s3://elsewhere/checkpoints"}
        EnableInterContainerTrafficEncryption: true
        RemoteDebugConfig: {EnableRemoteDebug: true}
    """)
    request = request_of(place, **settings)
    for name in settings.keys() - {"AlgorithmSpecification", "ResourceConfig", "OutputDataConfig", "Tags"}:
        if name != "StoppingCondition":
            assert request[name] == settings[name]
    assert request["AlgorithmSpecification"]["MetricDefinitions"][0]["Name"] == "psnr"
    assert request["ResourceConfig"] == {**settings["ResourceConfig"], "InstanceCount": 1}
    assert request["OutputDataConfig"]["KmsKeyId"] == "a-key"
    assert request["OutputDataConfig"]["S3OutputPath"].startswith("s3://")
    assert {"Key": "team", "Value": "scans"} in request["Tags"]
    assert {"Key": "e2e3d.stage", "Value": "ingest"} in request["Tags"]
    assert request["StoppingCondition"] == {**settings["StoppingCondition"], "MaxWaitTimeInSeconds": 14_400}


@pytest.mark.parametrize(
    ("settings", "longest_seconds", "condition"),
    [
        ({}, 600.2, {"MaxRuntimeInSeconds": 601}),
        ({}, 1e9, {"MaxRuntimeInSeconds": 28 * 86_400}),
        ({"EnableManagedSpotTraining": True}, 600, {"MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 1200}),
        (
            {"EnableManagedSpotTraining": True, "StoppingCondition": {"MaxWaitTimeInSeconds": 500}},
            600,
            {"MaxRuntimeInSeconds": 500, "MaxWaitTimeInSeconds": 500},
        ),
    ],
)
def test_a_job_ends_when_the_stage_s_estimate_says_unless_the_profile_does(
    place: SageMakerPlace, settings: dict[str, Any], longest_seconds: float, condition: dict[str, int]
) -> None:
    made = SageMakerSettings.model_validate({**SETTINGS, **settings})
    assert made.request(place.job(longest_seconds=longest_seconds))["StoppingCondition"] == condition


def test_no_secret_is_in_a_request_a_handle_or_a_description(place: SageMakerPlace) -> None:
    secret = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hush-hush", "AWS_SESSION_TOKEN": "hush-token"}
    place.sagemaker.instances.clear()
    made = place.attempt(environment={**secret, "AWS_DEFAULT_REGION": "us-east-1"})
    job = place.sagemaker.only_job
    assert job.request["Environment"] == {
        "E2E3D_TEST_SCRIPT": str(place.script.folder),
        "AWS_DEFAULT_REGION": "us-east-1",
        "E2E3D_IMAGE": place.settings["image"],
    }
    told = json.dumps([job.request, job.description, made.serialize()])
    assert "hush" not in told
    assert "someone" not in told


def test_an_owner_of_any_name_fits_into_a_tag(place: SageMakerPlace) -> None:
    owner = "a dag/manual__2030-01-01T00:00:00+00:00 #1 <é>/" + "x" * 300
    job = place.job()
    job = replace(job, claim=job.claim.model_copy(update={"owner": owner}))
    tags = SageMakerSettings.model_validate(SETTINGS).request(job)["Tags"]
    told = tags[-1]["Value"]
    assert told.startswith("a dag/manual__2030-01-01T00:00:00+00:00 _1 _é_/x")
    assert len(told) == 256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RoleARN": ROLE}, "no 'RoleARN'; did you mean RoleArn"),
        ({"metric_namespace": "x"}, "did you mean metrics_namespace"),
        ({"RoleArn": "e2e3d-stages"}, "RoleArn.*must match arn:aws"),
        ({"ResourceConfig": {}}, "InstanceType is missing"),
        ({"ResourceConfig": {"InstanceTyp": "ml.g5.xlarge"}}, "did you mean InstanceType"),
        ({"ResourceConfig": {"InstanceType": "ml.g5.xlrge"}}, "did you mean ml.g5.xlarge"),
        ({"ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceCount": 2}}, "must be 1"),
        ({"ResourceConfig": {"InstanceType": "ml.g5.xlarge", "InstanceGroups": []}}, "the stage's own"),
        ({"TrainingJobName": "mine"}, "the stage's own"),
        ({"HyperParameters": {"steps": "5"}}, "the stage's own"),
        ({"InputDataConfig": []}, "the stage's own"),
        ({"AlgorithmSpecification": {"TrainingImage": "x"}}, "the stage's own"),
        ({"AlgorithmSpecification": {"ContainerEntrypoint": ["sh"]}}, "the stage's own"),
        ({"VpcConfig": {"Subnets": ["subnet-0123"]}}, "SecurityGroupIds is missing"),
        ({"EnableNetworkIsolation": True}, "must be false"),
        ({"EnableManagedSpotTraining": "yes"}, "must be true or false"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": "1h"}}, "must be a whole number"),
        ({"StoppingCondition": {"MaxRuntimeInSeconds": 29 * 86_400}}, "28 days"),
        ({"StoppingCondition": {"MaxWaitTimeInSeconds": 3600}}, "goes with EnableManagedSpotTraining"),
        (
            {
                "EnableManagedSpotTraining": True,
                "StoppingCondition": {"MaxRuntimeInSeconds": 20, "MaxWaitTimeInSeconds": 10},
            },
            "must be at least MaxRuntimeInSeconds, 20",
        ),
        ({"Tags": [{"Key": "team"}]}, "Value is missing"),
        ({"Tags": [{"Key": "team", "Value": "a;b"}]}, "must match"),
    ],
)
def test_a_profile_that_cannot_work_is_refused_when_it_is_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        SageMakerSettings.model_validate({**SETTINGS, **settings})


def test_a_profile_without_a_role_is_refused() -> None:
    with pytest.raises(ValueError, match="RoleArn is missing"):
        SageMakerSettings.model_validate({name: value for name, value in SETTINGS.items() if name != "RoleArn"})


PROFILE = f"""
cloud:
  store: s3://scenes
  captures: [s3://uploads]
  stages:
    default:
      backend: sagemaker
      RoleArn: {ROLE}
      ResourceConfig:
        VolumeSizeInGB: 50
        InstanceType: ml.g5.xlarge
"""


def test_the_line_of_a_mistake_inside_a_field_is_told(tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text(PROFILE.replace("InstanceType", "InstanceKind"))
    place = r"profiles\.yaml:11: cloud\.stages\.default\.ResourceConfig\.InstanceKind: "
    with pytest.raises(InvalidRequest, match=place):
        read_profiles(file, {})


def test_a_folder_is_out_of_a_job_s_reach(place: SageMakerPlace) -> None:
    place.profile["store"] = (place.folder / "store").as_uri()
    with pytest.raises(InvalidRequest, match="does not see file://"):
        place.attempt()
    assert not place.sagemaker.jobs


# What becomes of a job


def test_a_spot_instance_that_is_taken_away_costs_no_retry(place: SageMakerPlace) -> None:
    place.script["ingest"] = ["wait", "succeed"]
    made = place.attempt(EnableManagedSpotTraining=True)
    until(lambda: place.script.calls)
    job = place.sagemaker.only_job
    job.interrupt()
    lines: list[str] = []
    assert follow(made, lines) == 0
    assert job.starts == 2
    assert (place.script.folder / "stopped").exists()
    assert place.script.calls == ["ingest", "ingest"]
    assert made.store.reference("ingest", KEY) is not None
    assert made.store.failure("ingest", KEY, 1) is None
    told = "\n".join(lines)
    assert "ingest does wait, from step 0" in told
    assert "ingest does succeed, from step " in told
    assert "ingest does succeed, from step 0" not in told
    record = made.record(profile_named("sagemaker"), made.backend.poll(made.state.handle), {})
    assert record.billable_seconds is not None
    assert record.billable_seconds <= SPOT_SHARE * job.description["TrainingTimeInSeconds"] + 1
    assert not place.left()


@pytest.mark.parametrize("process", ["the same process", "another"])
def test_the_log_goes_on_in_the_stream_of_the_second_start(
    place: SageMakerPlace, waiting: Attempt, process: str
) -> None:
    lines: list[str] = []
    until(lambda: waiting.follow(lines.append) and any("from step 0" in line for line in lines))
    job = place.sagemaker.only_job
    job.interrupt()
    until(lambda: job.starts == 2)
    again = waiting
    if process == "another":
        again = Attempt.deserialize(json.loads(json.dumps(waiting.serialize())))
    go_on(place)
    assert follow(again, lines) == 0
    starts = [line for line in lines if "ingest does wait" in line]
    assert len(starts) == len(set(starts)) == 2
    streams = place.aws.client("logs").describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=job.name)
    assert len(streams["logStreams"]) == 2
    # Only when there can be a new one are streams looked for.
    assert place.aws.calls.count("DescribeLogStreams") < place.aws.calls.count("GetLogEvents")


def test_instances_that_are_not_to_be_had_now_are_asked_for_again(place: SageMakerPlace) -> None:
    place.sagemaker.failures = [CAPACITY]
    made = place.attempt()
    follow(made)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.INFRASTRUCTURE
    assert "Unable to provision requested ML compute capacity" in failure.message
    assert "choose another InstanceType" in failure.hint
    assert follow(place.attempt()) == 0


def test_an_instance_that_the_account_may_not_use_is_told_and_not_asked_for_again(place: SageMakerPlace) -> None:
    place.sagemaker.refusals = [Refused("ResourceLimitExceeded", IN_USE.replace("is 2 ", "is 0 "))]
    with pytest.raises(InvalidRequest) as told:
        place.attempt()
    assert "In Service Quotas, Amazon SageMaker, ask for an increase of 'ml.m5.xlarge for training job usage'" in (
        told.value.hint
    )
    assert place.aws.calls.count("CreateTrainingJob") == 1


@pytest.mark.parametrize(
    ("refusal", "kind", "words"),
    [
        (Refused("ResourceLimitExceeded", IN_USE), Infrastructure, "all in use"),
        (
            Refused("ResourceLimitExceeded", "The requested resource training-job/ml.p2.xlarge is not available here"),
            InvalidRequest,
            "not available",
        ),
        (Refused("ValidationException", "Cannot find the requested image"), InvalidRequest, "requested image"),
        (Refused("AccessDeniedException", "no"), InvalidRequest, "may not do sagemaker:CreateTrainingJob"),
        (Refused("InternalFailure", "oops", 500), Infrastructure, "AWS is busy"),
    ],
)
def test_what_a_refusal_means(
    place: SageMakerPlace, refusal: Refused, kind: type[InvalidRequest | Infrastructure], words: str
) -> None:
    # botocore asks twice what may pass.
    place.sagemaker.refusals = [refusal, refusal]
    with pytest.raises(kind, match=words):
        place.backend().submit(place.job())


def test_a_job_that_takes_too_long_is_stopped_with_its_checkpoint_saved(place: SageMakerPlace) -> None:
    place.script["ingest"] = ["wait"]
    made = place.attempt(StoppingCondition={"MaxRuntimeInSeconds": 3600})
    until(lambda: place.script.calls)
    place.sagemaker.only_job.stop("MaxRuntimeExceeded")
    until(lambda: not made.follow(print).running)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.INTERRUPTED
    assert "MaxRuntimeInSeconds" in failure.message
    assert "Raise StoppingCondition" in failure.hint
    assert made.store.latest_checkpoint("ingest", KEY, place.folder / "checkpoint")


def test_a_job_that_still_waits_for_its_instance_is_stopped_too(place: SageMakerPlace) -> None:
    place.sagemaker.instances.clear()
    made = place.attempt()
    assert made.follow(print).running
    made.cancel()
    until(lambda: not place.left())
    assert place.sagemaker.only_job.starts == 0
    status = made.backend.poll(made.state.handle)
    assert status.billable_seconds == 0
    assert made.failure(status).code is FailureCode.INTERRUPTED
    assert made.backend.find(place.job()) == made.state.handle


def test_clearing_away_stops_what_runs_and_keeps_what_ended(place: SageMakerPlace, waiting: Attempt) -> None:
    waiting.clean_up(succeeded=False)
    until(lambda: not place.left())
    waiting.clean_up(succeeded=False)
    assert place.aws.calls.count("StopTrainingJob") == 1


def test_an_image_that_is_not_there_is_told(place: SageMakerPlace) -> None:
    made = place.attempt(image="e2e3d/no-such-image:1")
    until(lambda: not made.follow(print).running)
    failure = made.failure(made.backend.poll(made.state.handle))
    assert failure.code is FailureCode.INVALID_REQUEST
    assert NO_IMAGE in failure.message
    assert "make push" in failure.hint


def test_what_the_program_says_is_told_also_where_it_did_not_reach_its_store(place: SageMakerPlace) -> None:
    backend = place.backend()
    handle = backend.submit(place.job())
    until(lambda: not backend.poll(handle).running)
    status = backend.poll(handle)
    assert status.exit_code == 2
    assert status.failure is not None
    assert status.failure.code is FailureCode.INVALID_REQUEST
    assert status.failure.message.startswith(f"There is no request at {place.job().request_uri}.")


def test_a_program_that_crashes_is_told_in_its_own_words(place: SageMakerPlace) -> None:
    place.script["ingest"] = ["crash"]
    made = place.attempt()
    until(lambda: not made.follow(print).running)
    status = made.backend.poll(made.state.handle)
    assert status.failure is not None
    assert status.failure.message.startswith("ZeroDivisionError: division by zero This is a fault of the program")
    failure = made.failure(status)
    assert failure.message == "ZeroDivisionError: division by zero"
    assert "traceback" in failure.hint


@pytest.mark.parametrize(
    ("reason", "code", "exit_code"),
    [
        (NO_MEMORY, FailureCode.OUT_OF_MEMORY, None),
        ("ClientError: Artifact upload failed:ClientError: Out of Memory.", FailureCode.OUT_OF_MEMORY, None),
        ("AlgorithmError: torch.OutOfMemoryError: CUDA, exit code: 1", FailureCode.OUT_OF_MEMORY, 1),
        ("AlgorithmError: The GPU's memory ran out., exit code: 4", FailureCode.OUT_OF_MEMORY, 4),
        ("AlgorithmError: There are only 2 photos., exit code: 2", FailureCode.INVALID_REQUEST, 2),
        ("AlgorithmError: The bucket is gone., exit code: 5", FailureCode.INFRASTRUCTURE, 5),
        ("AlgorithmError: Exit Code: 139", None, 139),
        ("AlgorithmError: , exit code: 137", None, 137),
        (CAPACITY, FailureCode.INFRASTRUCTURE, None),
        ("InternalServerError: We encountered an internal error. Please try again.", FailureCode.INFRASTRUCTURE, None),
        ("ClientError: Unable to assume role", FailureCode.INVALID_REQUEST, None),
        ("", FailureCode.INFRASTRUCTURE, None),
    ],
)
def test_what_a_failure_reason_means(reason: str, code: FailureCode | None, exit_code: int | None) -> None:
    status = job_status({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason})
    assert not status.running
    assert (status.failure.code if status.failure else None) is code
    assert status.exit_code == exit_code


# What it cost


def test_billable_seconds_and_price_are_written_down_and_sent_as_metrics(place: SageMakerPlace) -> None:
    place.profile["prices"] = {"ml.m5.xlarge": 3600}
    place.settings["metrics_namespace"] = namespace = f"E2E3D/{place.aws.mark}"
    made = place.attempt()
    assert follow(made) == 0
    status = made.backend.poll(made.state.handle)
    seconds = place.sagemaker.only_job.description["BillableTimeInSeconds"]
    assert seconds > 0
    made.record(profile_named("sagemaker"), status, {"psnr": 31.5, "photos": 10})
    record = made.store.job("ingest", KEY, 1)
    assert record is not None
    assert (record.machine, record.billable_seconds, record.price) == ("ml.m5.xlarge", seconds, seconds)
    metrics = place.aws.client("cloudwatch").list_metrics(Namespace=namespace)["Metrics"]
    assert {metric["MetricName"] for metric in metrics} == {"billable_seconds", "price", "psnr"}
    assert all(metric["Dimensions"] == [{"Name": "stage", "Value": "ingest"}] for metric in metrics)


def test_a_profile_may_call_its_machine_otherwise(place: SageMakerPlace) -> None:
    assert place.backend().machine == "ml.m5.xlarge"
    assert place.backend(machine="spot").machine == "spot"
