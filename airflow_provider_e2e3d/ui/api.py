"""The pages' app: every route asks `access` first, every answer says what a browser may do with it."""

from __future__ import annotations

import hashlib
from html import escape
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_e2e3d.ui import gallery, runs
from airflow_provider_e2e3d.ui.access import of_any_dag, of_run, of_scenes, of_task, what_may_be_done
from airflow_provider_e2e3d.ui.files import answer, cached
from airflow_provider_e2e3d.ui.stores import below, in_thread, scene_folder, stores
from e2e3d_stages.contract.figures import SHOWN
from e2e3d_stages.contract.messages import Infrastructure, StageError
from e2e3d_stages.registry import STAGES
from e2e3d_stages.store.base import NotFound

PAGES = Path(__file__).with_name("pages")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "private, no-cache",
}

Profile = Annotated[str | None, Query(max_length=200)]


class SecurityHeaders:
    """Adds what an answer does not say itself."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = {name.lower() for name, _ in message["headers"]}
                missing = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(each for each in missing if each[0] not in said)]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class App(FastAPI):
    """A FastAPI app whose answers all have the headers, also those to what went wrong."""

    def build_middleware_stack(self) -> ASGIApp:
        """See Starlette; its own handler of errors is outside of all middleware."""
        return SecurityHeaders(super().build_middleware_stack())


def create_app() -> FastAPI:
    """The app, without documentation pages: they would be open to everybody."""
    app = App(title="E2E3D", openapi_url=None, docs_url=None, redoc_url=None)
    for kind, handler in ((HTTPException, _refused), (NotFound, _missing), (StageError, _told)):
        app.add_exception_handler(kind, handler)  # type: ignore[arg-type]
    _add_pages(app)
    _add_scenes(app)
    _add_runs(app)
    return app


# What went wrong


def _refused(request: Request, error: HTTPException) -> Response:
    """As JSON for a program, as a page with a way to the login for a person."""
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"message": error.detail}, error.status_code)
    from airflow.api_fastapi.app import get_auth_manager

    words, more = escape(str(error.detail)), ""
    if error.status_code == 401:
        login = get_auth_manager().get_url_login(next_url=str(request.url))
        words, more = "You are not logged in.", f'<p><a href="{escape(login)}">Log in to Airflow</a></p>'
    page = f'<!doctype html><html lang="en"><title>E2E3D</title><main><p>{words}</p>{more}</main></html>'
    return HTMLResponse(page, error.status_code)


def _missing(request: Request, error: NotFound) -> Response:
    """What is not there and what may not be read look the same."""
    return JSONResponse({"message": "That is not there."}, 404)


def _told(request: Request, error: StageError) -> Response:
    """What a store or a profile file says, in its own words."""
    status = 503 if isinstance(error, Infrastructure) else 500
    return JSONResponse({"message": error.message, "hint": error.hint}, status)


# Pages: the same few lines for all of them, filled in by the scripts


def _add_pages(app: FastAPI) -> None:
    own = {file.name: file for file in PAGES.iterdir()}
    # In the address of every script, so that a browser keeps them until they change, and asks for no login each time.
    mark = hashlib.sha256(b"".join(own[name].read_bytes() for name in sorted(own))).hexdigest()[:12]
    shell = own["page.html"].read_text().replace("{mark}", mark)

    def page(request: Request) -> HTMLResponse:
        return HTMLResponse(shell.replace("{base}", escape(f"{request.scope['root_path']}/")))

    for path in ("/scenes", "/scenes/{scene}", "/scenes/{scene}/{run}", "/compare/{scene}"):
        app.get(path, dependencies=[of_scenes])(page)
    app.get("/run", dependencies=[of_run])(page)
    app.get("/task", dependencies=[of_task])(page)

    @app.get("/static/{of}/{name}", dependencies=[of_any_dag])
    def static(of: str, name: str) -> FileResponse:
        if name not in own:
            raise NotFound(name)
        return FileResponse(own[name], headers={"Cache-Control": cached(lasting=of == mark)})


# Scenes


def _add_scenes(app: FastAPI) -> None:
    @app.get("/api/declared", dependencies=[of_any_dag])
    def declared() -> Any:
        """The figures and the stages: what pages iterate over and none of them names by itself."""
        return {
            "figures": [figure.declared() for figure in SHOWN],
            "stages": [
                {"name": spec.name, "label": spec.label, "files": {each.path: each.use for each in spec.deliverables}}
                for spec in STAGES.values()
            ],
        }

    @app.get("/api/scenes", dependencies=[of_scenes])
    async def scenes(
        search: Annotated[str, Query(max_length=100)] = "",
        state: Annotated[str, Query(pattern="^(success|running|queued|failed|)$")] = "",
        sort: Annotated[str, Query(pattern=f"^-?({'|'.join(gallery.SORTS)})$")] = "-started",
        page: Annotated[int, Query(ge=1)] = 1,
        size: Annotated[int, Query(ge=1, le=100)] = 24,
    ) -> Any:
        found, problems = await in_thread(lambda: gallery.cards(stores()))
        wanted = gallery.page_of(found, search=search, state=state, sort=sort, page=page, size=size)
        return {**wanted, "problems": problems}

    @app.get("/api/scenes/{scene}", dependencies=[of_scenes])
    async def scene_runs(scene: str, profile: Profile = None) -> Any:
        found = await in_thread(lambda: gallery.runs_of(stores(profile), scene))
        if not found:
            raise NotFound(scene)
        return {"scene": scene, "runs": found}

    @app.get("/api/scenes/{scene}/{run}", dependencies=[of_scenes])
    async def scene_run(scene: str, run: str, profile: Profile = None) -> Any:
        return (await in_thread(lambda: gallery.first_record(stores(profile), scene, run)))[1]

    @app.get("/api/compare/{scene}", dependencies=[of_scenes])
    async def compare(scene: str, left: str, right: str) -> Any:
        def both() -> Any:
            return gallery.comparison(*(gallery.first_record(stores(), scene, run)[1] for run in (left, right)))

        return await in_thread(both)

    @app.get("/scenes/{scene}/{run}/{path:path}", dependencies=[of_scenes])
    async def scene_file(
        request: Request, scene: str, run: str, path: str, profile: Profile = None, v: str = ""
    ) -> Response:
        # Only what the run's own record names: nothing else that may lie there.
        source, record = await in_thread(lambda: gallery.first_record(stores(profile), scene, run))
        if path not in {*record["files"], "run.json"}:
            raise NotFound(path)
        where = below(scene_folder(scene, run), path)
        return await answer(request, source.store, where, lasting=v == record["mark"])


# Runs and tasks


def _add_runs(app: FastAPI) -> None:
    @app.get("/api/run", dependencies=[of_task])
    async def run(dag_id: str, run_id: str, may: dict[str, bool] = what_may_be_done) -> Any:
        return {**await in_thread(lambda: runs.run_view(runs.read_run(dag_id, run_id))), "may": may}

    @app.get("/api/task", dependencies=[of_task])
    async def task(dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        return await in_thread(lambda: runs.task_view(runs.read_run(dag_id, run_id, task_id), task_id, map_index))

    @app.get("/api/preview", dependencies=[of_run])
    async def preview(request: Request, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Response:
        found = await in_thread(lambda: runs.preview_path(runs.read_run(dag_id, run_id, task_id), map_index))
        return await answer(request, found[0].store, found[1], lasting=False)
