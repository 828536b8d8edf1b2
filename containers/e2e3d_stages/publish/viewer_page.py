"""The viewer page: PlayCanvas's SuperSplat Viewer with a scene inside, one file that asks the network for nothing."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from e2e3d_stages.contract.messages import StageError
from e2e3d_stages.publish import fetch_viewer
from e2e3d_stages.publish.spec import MESH_PAGE, REPORT, STREAMED_PAGE
from e2e3d_stages.splats import streamed
from e2e3d_stages.splats.views import camera_place

# The viewer turns splats by 180 degrees about z: x and y of our world change sign, and up = -y becomes its +y.
TO_VIEWER = np.array([-1.0, -1.0, 1.0])
LEVELS = f"{streamed.FOLDER}{streamed.META}"
FOV_LIMITS = (20.0, 100.0)
_TEMPLATES = Path(__file__).parent / "templates"

# The seams that the package's own `renderViewerHtml` (dist/index.js) replaces; that function needs Node.js.
_TITLE = re.compile(r"<title>.*?</title>")
_STYLESHEET = re.compile(r'<link\b[^>]*href="\./index\.css"[^>]*>')
_MODULE_IMPORT = re.compile(r"import \{ createViewer \} from '\./index\.js';")
_BOOTSTRAP = re.compile(r'<script type="application/json" id="sse-bootstrap">.*?</script>', re.DOTALL)
_BODY = re.compile(r"<body\b[^>]*>")
_ADDRESS = re.compile(r"const url = new URL\(location\.href\);")
_START = re.compile(r"(?=createViewer\(\{ container: document\.body)")
_END = re.compile(r"(?=</script>\s*</body>)")
_SOURCE_MAP = re.compile(r"\n//# sourceMappingURL=\S+\s*$")

_BAR = """
        <style>
            #e2e3d {{ position: fixed; z-index: 20; top: 12px; left: 12px; max-width: 60vw; padding: 7px 12px;
                font: 13px/1.4 system-ui, sans-serif; color: #fff; background: rgba(20, 22, 26, .62);
                border-radius: 8px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }}
            #e2e3d a {{ color: #bcd7ff; margin-left: 10px; }}
        </style>
        <div id="e2e3d"><b>{title}</b>{links}</div>"""
_TO_REPORT = f'<a href="{REPORT}">Report</a>'
_TO_MESH = f'<a href="{MESH_PAGE}">Mesh</a>'

# Which of the two a person looks at; hidden until both are there.
_LOOK = """
        <style>
            #e2e3d-look { position: fixed; z-index: 20; top: 12px; right: 12px; padding: 7px 12px; color: #fff;
                font: 13px/1.4 system-ui, sans-serif; background: rgba(20, 22, 26, .62); border-radius: 8px; }
            #e2e3d-look label { margin-left: 10px; white-space: nowrap; }
            @media (max-width: 700px) { #e2e3d-look { top: 56px; right: auto; left: 12px; } }
        </style>
        <form id="e2e3d-look" hidden role="radiogroup" aria-label="What is shown">
            <label><input type="radio" name="look" value="scene"> Scene</label>
            <label><input type="radio" name="look" value="mesh" checked> Mesh</label>
            <label><input type="radio" name="look" value="form"> Its form</label>
        </form>
        <script type="text/plain" id="mesh">{mesh}</script>"""

# What a link says beside the page's address may not put something else into it.
_OWN_ADDRESS = """const url = new URL(location.href);
            for (const name of ['content', 'settings', 'poster', 'skybox', 'collision', 'voxel']) {
                url.searchParams.delete(name);
            }"""

# A page that came from a disk, alone, or in a frame of Airflow's has nothing beside it that it could load.
_ONWARDS = f"""
<script>
    if (self.origin !== 'null') {{
        fetch('{LEVELS}').then(
            (answer) => {{ if (answer.ok) location.replace('{STREAMED_PAGE}' + location.search); }},
            () => {{}},
        );
    }}
</script>"""

# The viewer at a third of its size, as no server of plain files would send it.
_UNPACKED = """
            const text = atob(document.getElementById('packed').textContent);
            const packed = new Blob([Uint8Array.from(text, (sign) => sign.charCodeAt(0))]);
            const code = packed.stream().pipeThrough(new DecompressionStream('gzip'));
            const file = new Blob([await new Response(code).blob()], { type: 'text/javascript' });
            const { createViewer } = await import(URL.createObjectURL(file));"""

# In a frame; the viewer gives its camera out only while its debug panel is open.
_FRAMED = """
        <style>
            .sse-debug-panel {{ display: none !important; }}
            @media (max-width: 700px), (max-height: 480px) {{ .sse-controlsHint {{ display: none !important; }} }}
        </style>
        <script type="module">
{bridge}
        </script>"""


def viewer_settings(view: dict[str, Any], depth: float) -> dict[str, Any]:
    """The viewer's `settings.json` (version 2), opening at a camera.

    :param view: an entry of `views.json`.
    :param depth: distance from the camera to what it looks at, in the scene's units.
    """
    position, ahead = camera_place(view), np.array(view["world_to_camera"])[2, :3]
    target = position + depth * ahead
    fov = float(np.degrees(2 * np.arctan(view["height"] / (2 * view["fy"]))))
    initial = {
        "position": (position * TO_VIEWER).round(5).tolist(),
        "target": (target * TO_VIEWER).round(5).tolist(),
        "fov": round(float(np.clip(fov, *FOV_LIMITS)), 3),
    }
    return {
        "version": 2,
        "tonemapping": "none",
        "highPrecisionRendering": False,
        "background": {"color": [0.07, 0.075, 0.085]},
        "postEffectSettings": {
            "sharpness": {"enabled": False, "amount": 0},
            "bloom": {"enabled": False, "intensity": 1, "blurLevel": 2},
            "grading": {"enabled": False, "brightness": 1, "contrast": 1, "saturation": 1, "tint": [1, 1, 1]},
            "vignette": {"enabled": False, "intensity": 0.5, "inner": 0.3, "outer": 0.75, "curvature": 1},
            "fringing": {"enabled": False, "intensity": 0.5},
        },
        "animTracks": [],
        "cameras": [{"initial": initial}],
        "annotations": [],
        "startMode": "default",
    }


def viewer_page(
    title: str,
    sog: bytes,
    settings: dict[str, Any],
    folder: Path = fetch_viewer.FOLDER,
    *,
    has_levels: bool = False,
    has_mesh: bool = False,
) -> str:
    """The whole page as HTML, the scene in it.

    :param title: the scene's name, any text.
    :param sog: the compressed scene's bytes.
    :param settings: from `viewer_settings`.
    :param folder: where the viewer's files are.
    :param has_levels: whether it leads on to `streamed_page`, wherever that can load its levels.
    :param has_mesh: whether it links to `mesh_page`.
    :raises StageError: when the viewer's files are not there.
    """
    head = _ONWARDS if has_levels else ""
    return _page(title, _inside(sog, settings), folder, head=head, has_mesh=has_mesh)


def streamed_page(
    title: str, first: str, settings: dict[str, Any], folder: Path = fetch_viewer.FOLDER, *, has_mesh: bool = False
) -> str:
    """The page as HTML that loads levels of detail from beside it, as it needs them; see `viewer_page`.

    :param first: name of the file that it shows first, to be on its way while the viewer starts.
    """
    ahead = f'<link rel="preload" as="fetch" crossorigin href="{streamed.FOLDER}{first}">'
    return _page(title, {"contentUrl": LEVELS, "settings": settings}, folder, packed=ahead, has_mesh=has_mesh)


def mesh_page(title: str, sog: bytes, glb: bytes, settings: dict[str, Any], folder: Path = fetch_viewer.FOLDER) -> str:
    """The page as HTML that has the mesh and the scene in it, and shows either from the same place; see `viewer_page`.

    :param glb: the mesh as glTF, in the frame that `mesh/surface.py` writes.
    """
    return _page(title, _inside(sog, settings), folder, look=_LOOK.replace("{mesh}", _packed(glb)))


def _inside(sog: bytes, settings: dict[str, Any]) -> dict[str, Any]:
    """What the viewer is told to show: a scene that is inside the page."""
    return {
        "contentUrl": f"data:application/octet-stream;base64,{base64.b64encode(sog).decode()}",
        "contentFilename": "scene.sog",
        "settings": settings,
    }


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()


def _page(
    title: str,
    bootstrap: dict[str, Any],
    folder: Path,
    *,
    head: str = "",
    packed: str | None = None,
    look: str = "",
    has_mesh: bool = False,
) -> str:
    """The viewer in one file.

    :param bootstrap: what it shows.
    :param head: what a browser reads before all else.
    :param packed: compresses the viewer's code, and is what follows it.
    :param look: a mesh, and the switch between it and the scene.
    :param has_mesh: whether there is a page for the mesh, to link to.
    """
    if not fetch_viewer.is_there(folder):
        raise StageError(
            f"The viewer ({fetch_viewer.PACKAGE} {fetch_viewer.VERSION}) is not in this installation.",
            hint="Install the package again (pip install), or run: python -m e2e3d_stages.publish.fetch_viewer",
        )
    page, css, js = (
        (folder / name).read_text(encoding="utf-8").strip() for name in ("index.html", "index.css", "index.js")
    )
    js = _SOURCE_MAP.sub("\n", js)
    if re.search(r"</script|<!--|<script", js, re.IGNORECASE) or re.search(r"</style", css, re.IGNORECASE):
        raise StageError("The viewer's files hold markup that cannot be inlined.", hint="Use the pinned version.")
    licence = (folder / "LICENSE").read_text(encoding="utf-8").strip().replace("--", "- -")
    bridge = _template("bridge.js")
    # Ours goes in last: the first match wins, and a title may hold anything.
    page = _replace(page, _ADDRESS, _OWN_ADDRESS)
    page = _replace(page, _STYLESHEET, f"<style>\n{css}\n</style>")
    if look:
        page = _replace(page, _START, "const viewer = await ")
        page = _replace(page, _END, f"\n{_template('mesh.js')}\n")
    page = _replace(page, _MODULE_IMPORT, js if packed is None else _UNPACKED)
    links = (_TO_MESH if has_mesh else "") + _TO_REPORT
    ours = _BAR.format(title=escape(title), links=links) + _FRAMED.format(bridge=bridge) + look
    if packed is not None:
        ours += f'<script type="text/plain" id="packed">{_packed(js.encode())}</script>{packed}'
    page = _replace(page, _BODY, f"<body>{ours}")
    page = _replace(page, _BOOTSTRAP, f'<script type="application/json" id="sse-bootstrap">{_json(bootstrap)}</script>')
    named = f"<title>{escape(title)}</title>{head}\n<!--\nThe viewer's licence:\n{licence}\n-->"
    return _replace(page, _TITLE, named)


def _template(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8").strip()


def _replace(page: str, seam: re.Pattern[str], text: str) -> str:
    page, count = seam.subn(lambda _: text, page, count=1)
    if count != 1:
        raise StageError(f"The viewer's page has no {seam.pattern}.", hint="Use the pinned version of the viewer.")
    return page


def _json(value: Any) -> str:
    """JSON that can stand in a script element: no `<`, so no tag can end it."""
    return json.dumps(value).replace("<", "\\u003c")
