"""Word of a run that ended, received by a real web server and a real mail server."""

from __future__ import annotations

import email
import json
import logging
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Connection

from airflow_provider_e2e3d.get_provider_info import get_provider_info
from airflow_provider_e2e3d.notifications import channels as news_module
from airflow_provider_e2e3d.notifications.channels import (
    Notification,
    address_of,
    configured_channels,
    email_page,
    notify,
    slack_message,
)
from airflow_provider_e2e3d.notifications.notifiers import SceneWaits
from airflow_provider_e2e3d.pipelines.batch.notifier import BatchEnded
from airflow_provider_e2e3d.pipelines.batch.plan import BatchFolder, Ledger, Record
from airflow_provider_e2e3d.scenes.outcome import QUALITY_GATE, UNKNOWN, Reason
from airflow_provider_e2e3d.scenes.outcome import Outcome as SceneOutcome
from e2e3d_stages.contract import figures
from e2e3d_stages.contract.messages import FailureCode
from e2e3d_stages.store.opening import open_storage
from tests.airflow_runs import Outcome, run_dag
from tests.conftest import ROOT
from tests.provider.conftest import Script
from tests.web import Web

Run = Callable[..., Outcome]
TOKEN = "T0HUSH/B0HUSH/verysecret"
PASSWORD = "hush-hush-password"
NOTIFICATION = Notification(
    what="scene",
    state="failed",
    name="statue",
    run="manual__1",
    headline="There is no scene statue. It is <too> dark.",
    reason=Reason(stage="sfm", code="quality_gate", message="It is <too> dark.", hint="Wait for the sun & try again."),
)


class Mail:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self.letters: list[Message] = []
        self.to: list[str] = []
        mail = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    self.wfile.write(self.answer(line.decode().strip()))

            def answer(self, line: str) -> bytes:
                if line.upper().startswith("RCPT"):
                    mail.to.append(line.partition("<")[2].rstrip(">"))
                if line.upper() != "DATA":
                    return b"250 fine\r\n"
                self.wfile.write(b"354 go on\r\n")
                lines: list[bytes] = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                mail.letters.append(email.message_from_bytes(b"".join(lines)))
                return b"250 fine\r\n"

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server that Airflow is to tell, as a webhook and as Slack."""
    server = Web()
    hook = {"conn_type": "http", "host": f"{server.url}/hook", "login": "airflow", "password": PASSWORD}
    hook |= {"extra": {"headers": {"X-Studio": "north"}}}
    slack = {"conn_type": "slackwebhook", "host": f"{server.url}/services", "password": TOKEN}
    monkeypatch.setenv("AIRFLOW_CONN_A_HOOK", json.dumps(hook))
    monkeypatch.setenv("AIRFLOW_CONN_A_SLACK", json.dumps(slack))
    monkeypatch.setenv("AIRFLOW__E2E3D__NOTIFY_WEBHOOK_CONN_ID", "a_hook")
    monkeypatch.setenv("AIRFLOW__E2E3D__NOTIFY_SLACK_CONN_ID", "a_slack")
    yield server
    server.server.shutdown()


@pytest.fixture
def mail(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mail]:
    """A mail server that Airflow is to use."""
    server = Mail()
    extra = {"from_email": "airflow@example.org", "disable_ssl": True, "disable_tls": True}
    smtp = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_A_SERVER", json.dumps(smtp))
    monkeypatch.setenv("AIRFLOW__E2E3D__NOTIFY_EMAIL_CONN_ID", "a_server")
    monkeypatch.setenv("AIRFLOW__E2E3D__NOTIFY_EMAIL_TO", "studio@example.org, me@example.org")
    yield server
    server.server.shutdown()


def tell_now() -> None:
    """Tell without a picture."""
    notify(NOTIFICATION, lambda: None)


# A scene


@pytest.mark.slow
def test_a_scene_is_told_every_way_with_picture_figures_and_link_and_stays_a_success_when_nobody_listens(
    run: Run,
    profiles: Path,
    web: Web,
    mail: Mail,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org")
    profiles.write_text(profiles.read_text().replace("  preset:", "  url: https://scenes.example.org\n  preset:"))
    outcome = run("publish", render_film=True)
    assert outcome.state == "success"

    ((_, headers, told),) = [each for each in web.requests if each[0] == "/hook"]
    assert headers["Authorization"].startswith("Basic ")
    assert headers["X-Studio"] == "north"
    assert (told["what"], told["state"], told["name"], told["run"]) == ("scene", "succeeded", "statue", outcome.run_id)
    assert told["headline"] == "The scene statue is ready. Photos placed 10 of 10"
    assert told["figures"]["photos_placed"] == 10
    folder = told["page"].removesuffix("/index.html")
    assert folder.startswith("https://scenes.example.org/scenes/statue/")
    assert told["thumbnail"] == f"{folder}/thumbnail.jpg"
    assert told["film"] == f"{folder}/flight.mp4"
    assert told["airflow"].startswith("https://airflow.example.org/dags/reconstruct/runs/manual__")
    assert "reason" not in told

    (message,) = web.sent_to(f"/services/{TOKEN}")
    (attachment,) = message["attachments"]
    assert message["text"] == told["headline"]
    assert attachment["title_link"] == told["page"]
    assert attachment["image_url"] == told["thumbnail"]
    assert {"title": "Photos placed", "value": "10 of 10", "short": True} in attachment["fields"]

    (letter,) = mail.letters
    assert mail.to == ["studio@example.org", "me@example.org"]
    assert (letter["From"], letter["Subject"]) == ("airflow@example.org", told["headline"])
    text, picture = letter.get_payload()
    assert picture.get_payload(decode=True) == b"a picture of the scene"
    assert picture["Content-ID"] == "<thumbnail.jpg>"
    html = text.get_payload(decode=True).decode()
    assert "cid:thumbnail.jpg" in html
    assert f'href="{told["page"]}"' in html
    assert f'href="{told["film"]}"' in html

    # The same while nobody takes it.
    web.status = 500
    web.requests.clear()
    mail.server.shutdown()
    mail.server.server_close()
    again = run("publish", render_film=True)
    assert again.state == "success"
    assert len(web.requests) == 2
    for way in ("webhook", "slack", "email"):
        assert f"The notification by {way} was not sent" in caplog.text
    logged = outcome.log + again.log + caplog.text
    assert TOKEN not in logged
    assert PASSWORD not in logged


@pytest.mark.slow
def test_a_scene_that_failed_is_told_once_with_the_reason_and_what_to_do(run: Run, script: Script, web: Web) -> None:
    script["ingest"] = ["crash", "unreadable"]
    outcome = run("ingest")
    assert outcome.tries["ingest"] == 2
    assert outcome.state == "failed"
    (told,) = web.sent_to("/hook")
    assert (told["state"], told["name"]) == ("failed", "statue")
    assert told["headline"] == "There is no scene statue. There are only 2 photos."
    assert told["reason"] == {
        "stage": "ingest",
        "code": "unreadable_capture",
        "message": "There are only 2 photos.",
        "hint": "Take at least 3.",
    }
    ((_, _, message),) = [each for each in web.requests if each[0] != "/hook"]
    assert [field["title"] for field in message["attachments"][0]["fields"]] == ["Why", "What to do"]


@pytest.mark.slow
def test_a_request_that_is_refused_is_told_unless_the_run_is_to_be_quiet(run: Run, web: Web) -> None:
    assert run("ingest", capture="/etc/church", notify=False).states["plan"] == "failed"
    assert web.requests == []
    assert run("ingest", capture="/etc/church").states["plan"] == "failed"
    (told,) = web.sent_to("/hook")
    assert told["name"] == "church"
    assert "outside the places" in told["reason"]["message"]
    assert "Put the photos below one of" in told["reason"]["hint"]
    # Nobody can open an address that Airflow itself does not know.
    assert "airflow" not in told


def test_nobody_is_told_until_somebody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured_channels() == {}
    options = get_provider_info()["config"]["e2e3d"]["options"]
    for way in ("webhook", "slack", "email"):
        assert options[f"notify_{way}_conn_id"]["default"] == ""
        monkeypatch.setenv(f"AIRFLOW__E2E3D__NOTIFY_{way.upper()}_CONN_ID", "one")
    assert list(configured_channels()) == ["webhook", "slack", "email"]


# What goes wrong


@pytest.mark.parametrize("status", [403, 500])
def test_a_refusal_is_logged_without_the_secret_address(
    web: Web, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    web.status = status
    with caplog.at_level(logging.DEBUG, "airflow_provider_e2e3d"):
        tell_now()
    assert f"by slack was not sent: The other side answered {status}." in caplog.text
    assert "by webhook was not sent" in caplog.text
    assert TOKEN not in caplog.text
    assert PASSWORD not in caplog.text


def test_a_server_that_is_not_there_is_logged_without_the_secret_address(
    web: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/{TOKEN}"
        monkeypatch.setenv("AIRFLOW_CONN_A_SLACK", json.dumps({"conn_type": "http", "password": url}))
        monkeypatch.setenv("AIRFLOW__E2E3D__NOTIFY_WEBHOOK_CONN_ID", "not_there")
        tell_now()
    assert "by slack was not sent: ConnectionError." in caplog.text
    assert "by webhook was not sent: AirflowNotFoundException." in caplog.text
    assert "verysecret" not in caplog.text


@pytest.mark.slow
def test_a_server_that_does_not_answer_holds_nobody_up_and_no_other_way(
    web: Web, mail: Mail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Less than Airflow gives a task's process after its success.
    assert news_module.LIMIT_SECONDS < 20
    monkeypatch.setattr(news_module, "LIMIT_SECONDS", 3.0)
    web.delay = 30
    started = time.monotonic()
    with caplog.at_level(logging.INFO):
        tell_now()
    assert time.monotonic() - started < 5
    assert "by slack did not arrive within 3 s" in caplog.text
    assert len(mail.letters) == 1
    assert f"Told by email: {NOTIFICATION.headline}" in caplog.text


def test_e_mail_to_nobody_says_what_to_set(
    mail: Mail, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AIRFLOW__E2E3D__NOTIFY_EMAIL_TO")
    tell_now()
    assert "Set [e2e3d] notify_email_to." in caplog.text


# The forms


@pytest.mark.parametrize(
    "connection",
    [
        {"host": "{url}/one", "password": None},
        {"host": None, "password": "{url}/one"},
        {"host": "127.0.0.1", "schema": "http", "port": "{port}", "password": "/one"},
    ],
)
def test_a_slack_connection_may_hold_its_url_in_any_of_the_usual_ways(
    web: Web, monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any]
) -> None:
    values = {name: value and value.format(url=web.url, port=web.url[-5:]) for name, value in connection.items()}
    values["port"] = int(values.get("port") or 0) or None
    monkeypatch.setenv("AIRFLOW_CONN_A_SLACK", json.dumps({"conn_type": "slackwebhook", **values}))
    tell_now()
    assert len(web.sent_to("/one")) == 1


@pytest.mark.parametrize(
    ("name", "mark_up"),
    [
        ("@channel.jpg", "@channel"),
        ("[open](https://elsewhere).jpg", "](https"),
        ("[open] (x)", "] ("),
        ("see http://elsewhere", "http://elsewhere"),
        ("<!channel>", "<!channel>"),
    ],
)
def test_a_name_calls_nobody_and_is_no_link(name: str, mark_up: str) -> None:
    sent = json.dumps(
        slack_message(NOTIFICATION.model_copy(update={"headline": name, "name": name})), ensure_ascii=False
    )
    assert mark_up not in sent


def test_words_of_a_capture_are_no_mark_up() -> None:
    message = slack_message(NOTIFICATION)
    assert message["text"].endswith("It is &lt;too&gt; dark.")
    assert message["attachments"][0]["fields"][1]["value"] == "Wait for the sun &amp; try again."
    page = email_page(NOTIFICATION, with_picture=False)
    assert "It is &lt;too&gt; dark." in page
    assert "<too>" not in page
    assert "<img" not in page


@pytest.mark.parametrize("there", [True, False])
def test_a_film_is_linked_where_the_scene_has_one(there: bool) -> None:
    folder = "https://scenes.example.org/scenes/statue/run-1"
    film = f"{folder}/flight.mp4"
    made = NOTIFICATION.model_copy(update={"film": film if there else None})
    fields = slack_message(made)["attachments"][0]["fields"]
    assert ({"title": "Film", "value": f"<{film}>", "short": True} in fields) == there
    assert (f'<a href="{film}">' in email_page(made, with_picture=False)) == there


def test_the_docs_show_what_a_webhook_gets() -> None:
    page = (ROOT / "docs" / "notifications.md").read_text()
    made, reason = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    Notification.model_validate(made)
    few = figures.lines({"metrics": made["figures"]}, figures.CARD)
    assert made["headline"].endswith(" is ready. " + ", ".join(f"{label} {text}" for label, text in few.items()))
    assert made["lines"] == figures.lines({"metrics": made["figures"], "seconds": 453})
    Reason.model_validate(reason)
    assert all(code in page for code in (*(code.value for code in FailureCode), QUALITY_GATE, UNKNOWN))
    connections = re.findall(r"AIRFLOW_CONN_\w+='(.*?)'`", page)
    urls = [address_of(Connection.from_json(each)) for each in connections]
    assert urls == [
        "https://hooks.slack.com/services/T0/B0/…",
        "https://example.org/scenes",
        "https://mail.example.org:465",
    ]


# A batch


@pytest.fixture
def batch(
    airflow_home: Path, profiles: Path, captures: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Runs the batch DAG."""

    def go(captures: Path, **conf: Any) -> Outcome:
        return run_dag("reconstruct_batch", {"captures": str(captures), "quiet_seconds": 0, **conf}, capfd)

    return go


@pytest.mark.slow
def test_a_batch_is_told_once_when_something_came_of_it(
    batch: Callable[..., Outcome], captures: Path, tmp_path: Path, web: Web
) -> None:
    (captures / "none").mkdir()
    assert batch(captures / "none").state == "success"
    assert web.requests == []

    # The last page of a batch whose first one made the statue.
    made = Record(
        capture=(captures / "statue").as_uri(),
        fingerprint="",
        asked="",
        batch="manual__1",
        outcome=SceneOutcome(run="statue__manual__1", state="succeeded"),
    )
    folder = BatchFolder(open_storage((tmp_path / "store").as_uri()), captures.as_uri())
    folder.write_ledger(Ledger(scenes={"statue": made}))
    outcome = batch(captures, continues="manual__1")
    assert outcome.state == "success"
    (told,) = web.sent_to("/hook")
    assert (told["what"], told["state"], told["figures"]) == ("batch", "succeeded", {"succeeded": 1})
    assert told["headline"] == f"Batch of {captures}: 1 succeeded"
    assert told["page"] == outcome.results["report"]["page"]


@pytest.mark.slow
def test_a_batch_that_failed_names_its_scenes(batch: Callable[..., Outcome], captures: Path, web: Web) -> None:
    (captures / "tonight.csv").write_text("capture,scene\nstatue,No Name\n")
    assert batch(captures / "tonight.csv").state == "failed"
    (told,) = web.sent_to("/hook")
    assert told["figures"] == {"refused": 1}
    assert told["headline"].endswith("tonight.csv: 1 cannot be run")
    assert "No Name" in told["reason"]["message"]


def test_a_batch_that_goes_on_leaves_the_word_to_its_last_page() -> None:
    def notification(next_page: str) -> Notification | None:
        ti = SimpleNamespace(
            dag_id="reconstruct_batch",
            get_task_states=lambda **_: {"manual__1": {"next_page": next_page}},
            xcom_pull=lambda **_: {"counts": {"succeeded": 2, "waiting": 3}},
        )
        context: Any = {"ti": ti, "run_id": "manual__1", "params": {"captures": "s3://uploads"}}
        return BatchEnded("succeeded").notification(context)

    assert notification("success") is None
    last = notification("skipped")
    assert last is not None
    assert last.headline == "Batch of s3://uploads: 2 succeeded, 3 waits its turn"


def test_whoever_is_asked_is_told_what_each_answer_leads_to_and_where_to_give_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example.org")
    choices = {"train": "1 h 17 min, $2.10", "stop": "nothing"}
    task = SimpleNamespace(plan={"scene": "statue"}, subject="Train the scene statue?", choices=choices)
    ti = SimpleNamespace(dag_id="reconstruct", task_id="approve")
    context: Any = {"task": task, "ti": ti, "run_id": "run 1"}
    told = SceneWaits().notification(context)
    assert told.headline == "Train the scene statue? train, stop: the run waits for your answer."
    assert told.lines == {"Train": "1 h 17 min, $2.10", "Stop": "nothing"}
    assert told.page == "https://airflow.example.org/dags/reconstruct/runs/run%201/tasks/approve/required_actions"
    assert slack_message(told)["attachments"][0]["color"] == "warning"
