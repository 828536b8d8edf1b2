"""What there is to tell when a scene's run or a batch has ended, or waits for a person; and the ways it goes.

A way is used when `[e2e3d]` names its Airflow connection. Addresses and passwords are secrets: no error's own words are
logged, since they may hold them.
"""

from __future__ import annotations

import logging
import re
import tempfile
import threading
import time
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import BaseHook, Connection
from airflow.sdk.configuration import conf
from pydantic import Field

from airflow_provider_e2e3d.operators.links import is_on_the_web
from airflow_provider_e2e3d.scenes.outcome import Reason
from e2e3d_stages.contract.messages import InvalidRequest, Model
from e2e3d_stages.contract.paths import shown

log = logging.getLogger(__name__)

# For all ways together. Airflow ends a task's process 20 s after its success: `[core] task_success_overtime`.
LIMIT_SECONDS = 10.0


class Notification(Model):
    """What a webhook is sent, as JSON.

    :param what: has ended, or waits.
    :param name: of the scene; of a batch the place of its captures.
    :param run: of the DAG.
    """

    what: Literal["scene", "batch"]
    state: Literal["succeeded", "failed", "waiting"]
    name: str
    run: str
    headline: str = Field(description="All of it in one line.")
    page: str | None = Field(
        default=None, description="Where a person opens the scene, or the batch's page, or answers."
    )
    airflow: str | None = Field(default=None, description="The run in Airflow; only where [api] base_url is set.")
    thumbnail: str | None = Field(default=None, description="Address of a picture of the scene in the store.")
    film: str | None = Field(default=None, description="Address of a film of the scene in the store, where it has one.")
    figures: dict[str, Any] = Field(default_factory=dict, description="As in run.json; of a batch its counts.")
    reason: Reason | None = Field(default=None, description="Why there is no scene, and what to do.")
    lines: dict[str, str] = Field(default_factory=dict, description="The figures in words.")


Picture = Callable[[], bytes | None]
Send = Callable[[Notification, Picture], None]


def notify(notification: Notification, picture: Picture) -> None:
    """Send it every way that is configured, and log what did not arrive; never raises, never takes long.

    :param picture: reads the thumbnail.
    """
    ways = configured_channels()
    threads = {
        name: threading.Thread(target=_send, args=(name, send, notification, picture), daemon=True)
        for name, send in ways.items()
    }
    for thread in threads.values():
        thread.start()
    until = time.monotonic() + LIMIT_SECONDS
    for name, thread in threads.items():
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.warning("The notification by %s did not arrive within %.0f s.", name, LIMIT_SECONDS)


def configured_channels() -> dict[str, Send]:
    """The ways that `[e2e3d]` names a connection for."""
    ways: dict[str, Callable[[str, Notification, Picture], None]] = {
        "webhook": to_webhook,
        "slack": to_slack,
        "email": to_email,
    }
    found = {}
    for name, send in ways.items():
        if conn_id := conf.get("e2e3d", f"notify_{name}_conn_id", fallback=""):
            found[name] = _with(send, conn_id)
    return found


def _with(send: Callable[[str, Notification, Picture], None], conn_id: str) -> Send:
    return lambda notification, picture: send(conn_id, notification, picture)


def _send(name: str, send: Send, notification: Notification, picture: Picture) -> None:
    try:
        send(notification, picture)
        log.info("Told by %s: %s", name, notification.headline)
    except InvalidRequest as error:
        log.warning("The notification by %s was not sent: %s %s", name, error.message, error.hint)
    except Exception as error:
        log.warning("The notification by %s was not sent: %s.", name, type(error).__name__)


# A webhook: the notification as they are


def to_webhook(conn_id: str, notification: Notification, picture: Picture) -> None:
    """POST the notification as JSON."""
    connection = BaseHook.get_connection(conn_id)
    url = address_of(connection)
    post(
        url,
        notification.model_dump(mode="json", exclude_none=True),
        auth=(connection.login, connection.password or "") if connection.login and connection.password != url else None,
        headers=connection.extra_dejson.get("headers"),
    )


def address_of(connection: Connection) -> str:
    """The URL that a connection means: its host, unless the password is one, as where the address itself is secret.

    :raises InvalidRequest: when it has none.
    """
    if "://" in (connection.password or ""):
        return str(connection.password)
    if not connection.host:
        raise InvalidRequest(
            f"The connection {connection.conn_id} has no address.", hint="Write the URL into its host or its password."
        )
    host = connection.host.rstrip("/")
    url = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    return f"{url}:{connection.port}" if connection.port else url


def post(url: str, content: dict[str, Any], **how: Any) -> None:
    """POST JSON.

    :raises InvalidRequest: when the other side refuses it.
    """
    import requests

    # `notify` gives up first, and says so.
    answer = requests.post(url, json=content, timeout=2 * LIMIT_SECONDS, **how)
    if not answer.ok:
        raise InvalidRequest(f"The other side answered {answer.status_code}.", hint="Check the connection's address.")


# Slack, and what takes its webhooks' format


def to_slack(conn_id: str, notification: Notification, picture: Picture) -> None:
    """POST a message to an incoming webhook.

    The connection is as Slack's own provider has it: the webhook's URL in the password, or its path there and what is
    before it in the host. https://api.slack.com/messaging/webhooks, https://api.slack.com/reference/messaging/attachments
    """
    connection = BaseHook.get_connection(conn_id)
    url = address_of(connection)
    if connection.password and "://" not in connection.password:
        url = f"{url}/{connection.password.lstrip('/')}"
    post(url, slack_message(notification))


_COLOURS = {"succeeded": "good", "failed": "danger", "waiting": "warning"}


def slack_message(notification: Notification) -> dict[str, Any]:
    """The notification in the format that Slack, Mattermost and Rocket.Chat read."""
    lines = {**notification.lines}
    if notification.reason is not None:
        lines = {"Why": notification.reason.message, "What to do": notification.reason.hint, **lines}
    film = {"title": "Film", "value": f"<{notification.film}>", "short": True}
    attachment = {
        "color": _COLOURS[notification.state],
        "fallback": _plain(notification.headline),
        "title": _plain(notification.name),
        "title_link": notification.page or notification.airflow,
        "fields": [
            {"title": _plain(name), "value": _plain(value), "short": len(value) < 40}
            for name, value in lines.items()
            if value
        ]
        + ([film] if is_on_the_web(notification.film) else []),
        "image_url": notification.thumbnail if is_on_the_web(notification.thumbnail) else None,
        "footer": f"<{notification.airflow}|{_plain(notification.run)}>"
        if notification.airflow
        else _plain(notification.run),
    }
    told = {name: value for name, value in attachment.items() if value is not None}
    return {"text": _plain(notification.headline), "attachments": [told]}


def _plain(text: str) -> str:
    """Text in which Slack, Mattermost and Rocket.Chat find no mark-up: no link, and nobody to be called.

    https://api.slack.com/reference/surfaces/formatting#escaping; for the others, who read Markdown, an invisible
    character stands between the signs.
    """
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(@|\]\s*|https?://)(?=[\w(\[])", "\\1\u200b", escaped)


# E-mail


def to_email(conn_id: str, notification: Notification, picture: Picture) -> None:
    """Send a message through an SMTP connection, with the thumbnail.

    :raises InvalidRequest: when nobody is named to send it to.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    to = [address.strip() for address in conf.get("e2e3d", "notify_email_to", fallback="").split(",")]
    if not any(to):
        raise InvalidRequest("Nobody is named to send it to.", hint="Set [e2e3d] notify_email_to.")
    image = picture()
    with tempfile.TemporaryDirectory() as folder, SmtpHook(smtp_conn_id=conn_id) as smtp:
        files = []
        if image:
            files = [Path(folder, "thumbnail.jpg")]
            files[0].write_bytes(image)
        smtp.send_email_smtp(
            to=to,
            from_email=smtp.from_email or conf.get("email", "from_email", fallback=None),
            # A header has one line.
            subject=shown(notification.headline),
            html_content=email_page(notification, with_picture=bool(image)),
            files=[str(file) for file in files],
            mime_subtype="related",
        )


def email_page(notification: Notification, *, with_picture: bool) -> str:
    """The notification as HTML that mail programs show."""
    parts = [f"<h2>{escape(notification.headline)}</h2>"]
    if with_picture:
        # The hook names each attached file's Content-ID like the file.
        parts.append('<p><img src="cid:thumbnail.jpg" alt="The scene" style="max-width: 640px"></p>')
    if notification.reason is not None:
        parts.append(f'<p style="white-space: pre-wrap">{escape(notification.reason.message)}</p>')
        parts.append(
            f"<p><b>What to do:</b> {escape(notification.reason.hint)}</p>" if notification.reason.hint else ""
        )
    rows = [
        f"<tr><td>{escape(name)}</td><td><b>{escape(value)}</b></td></tr>" for name, value in notification.lines.items()
    ]
    parts.append(f'<table cellpadding="4">{"".join(rows)}</table>' if rows else "")
    if is_on_the_web(notification.page):
        parts.append(f'<p><a href="{escape(notification.page)}">Open it</a></p>')
    elif notification.page:
        parts.append(f"<p>It lies at {escape(notification.page)}</p>")
    if is_on_the_web(notification.film):
        parts.append(f'<p><a href="{escape(notification.film)}">Its film</a></p>')
    if notification.airflow:
        parts.append(f'<p><a href="{escape(notification.airflow)}">The run in Airflow</a></p>')
    parts.append(f"<p><small>{escape(notification.run)}</small></p>")
    return "\n".join(filter(None, parts))
