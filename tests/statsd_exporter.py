"""Stands in for prom/statsd-exporter and prom/node-exporter, which cannot be had everywhere.

What StatsD tells becomes metrics by the rules of https://github.com/prometheus/statsd_exporter#metric-mapping-and-configuration,
as far as `deploy/monitoring/statsd.yml` uses them; InfluxDB's tags are labels.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.web import answering

_KINDS = {"c": "counter", "g": "gauge", "ms": "observer"}
Labels = tuple[tuple[str, str], ...]


class StatsdExporter:
    """Hears StatsD at `statsd_port`, and is scraped at `port`; a disk of `free_share` is free there.

    :param mapping: the exporter's configuration.
    """

    def __init__(self, mapping: Path) -> None:
        self._rules: list[dict[str, Any]] = yaml.safe_load(mapping.read_text())["mappings"]
        self.samples: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self.kinds: dict[str, str] = {}
        self.refused: list[str] = []
        self.free_share = 0.5
        self._lock = threading.Lock()
        self._ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        self._ear.bind(("127.0.0.1", 0))
        self.statsd_port: int = self._ear.getsockname()[1]
        exporter = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exporter.page().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = answering(Page)
        self.port: int = self._server.server_port
        threading.Thread(target=self._hear, daemon=True).start()

    def close(self) -> None:
        """Hear and answer nothing more."""
        self._server.shutdown()
        self._server.server_close()
        self._ear.close()

    def _hear(self) -> None:
        while True:
            try:
                data = self._ear.recv(65536)
            except OSError:
                return
            with self._lock:
                for line in data.decode().splitlines():
                    try:
                        self._take(line)
                    except Exception as error:  # as the exporter, which counts what it cannot use and goes on
                        self.refused.append(f"{line}: {error!r}")

    def _take(self, line: str) -> None:
        told, _, rest = line.partition(":")
        stat, *tags = told.split(",")
        value, kind = rest.split("|")[:2]
        kind = _KINDS[kind]
        name, buckets = self._mapped(stat, kind)
        labels = tuple(sorted((key, text) for key, _, text in (tag.partition("=") for tag in tags)))
        assert self.kinds.setdefault(name, kind) == kind, f"{name} is told as {kind} and as {self.kinds[name]}"
        if kind == "counter":
            self.samples[name][labels] += float(value)
        elif kind == "gauge":
            sign = value[0] in "+-"
            self.samples[name][labels] = float(value) + (self.samples[name][labels] if sign else 0)
        else:
            seconds = float(value) / 1000
            for bucket in buckets:
                le = "+Inf" if bucket == float("inf") else f"{bucket:g}"
                self.samples[f"{name}_bucket"][labels + (("le", le),)] += seconds <= bucket
            self.samples[f"{name}_sum"][labels] += seconds
            self.samples[f"{name}_count"][labels] += 1

    def _mapped(self, stat: str, kind: str) -> tuple[str, list[float]]:
        """Its name, and the buckets of a histogram; an observer without is a summary."""
        for rule in self._rules:
            found = re.search(rule["match"], stat)
            if found and rule["match_metric_type"] == kind:
                buckets = rule.get("histogram_options", {}).get("buckets", [])
                return rule["name"].replace("${1}", found[1]), [*buckets, float("inf")]
        return re.sub(r"[^a-zA-Z0-9_]", "_", stat), []

    def page(self) -> str:
        """What a scrape reads: with a disk, and this machine's memory and cores, as the node exporter tells them."""
        lines = []
        with self._lock:
            for name, samples in self.samples.items():
                base = re.sub(r"_(bucket|sum|count)$", "", name)
                kind = self.kinds.get(name) or self.kinds[base]
                if kind != "observer":
                    lines.append(f"# TYPE {name} {kind}")
                elif name.endswith("_sum"):
                    lines.append(f"# TYPE {base} {'histogram' if f'{base}_bucket' in self.samples else 'summary'}")
                lines += [f"{name}{_written(labels)} {value}" for labels, value in samples.items()]
        memory, cores = psutil.virtual_memory(), psutil.cpu_times()
        root = '{mountpoint="/", fstype="ext4", device="/dev/sda1"}'
        lines += [
            f"node_filesystem_avail_bytes{root} {self.free_share * 1e12}",
            f"node_filesystem_size_bytes{root} {1e12}",
            f"node_memory_MemAvailable_bytes {memory.available}",
            f"node_memory_MemTotal_bytes {memory.total}",
            f'node_cpu_seconds_total{{cpu="0", mode="user"}} {cores.user}',
        ]
        return "\n".join(lines) + "\n"


def _written(labels: Labels) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels) + "}"
