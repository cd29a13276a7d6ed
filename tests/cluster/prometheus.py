"""A Prometheus, as Debian packages it, that reads the pods of one namespace every second.

Debian leaves out what would find pods by itself: this module tells it where they are.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.foreign import answers, process
from cluster.kubernetes_api import KubernetesApi, Object
from ports import free_port

PORT = 8080


@contextmanager
def prometheus(api: KubernetesApi, namespace: str, directory: Path) -> Iterator[str]:
    """Its URL. The package is unpacked below a directory, not installed."""
    subprocess.run(["apt-get", "download", "--quiet", "prometheus"], cwd=directory, check=True, timeout=300)
    (package,) = directory.glob("prometheus_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, directory / "prometheus"], check=True, timeout=120)
    config, port, targets = directory / "prometheus.json", free_port(), directory / "targets.json"
    job = {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
    times = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config.write_text(json.dumps({"global": times, "scrape_configs": [job]}))  # JSON is YAML
    url = f"http://127.0.0.1:{port}"
    command = [
        str(directory / "prometheus/usr/bin/prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = directory / "prometheus.log"
    with _told(api, namespace, targets), process(command, {}, log, lambda: answers(f"{url}/-/ready")):
        yield url


@contextmanager
def _told(api: KubernetesApi, namespace: str, targets: Path) -> Iterator[None]:
    """The file with the pods that there are, written every second while the block runs."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(1.0):
            unfinished = targets.with_suffix(".unfinished")
            unfinished.write_text(json.dumps([_target(pod) for pod in api.list("Pod", namespace) if _address(pod)]))
            unfinished.rename(targets)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30)


def _address(pod: Object) -> str:
    return str((pod.get("status") or {}).get("podIP") or "")


def _target(pod: Object) -> Object:
    """With the labels that a Prometheus of a cluster has."""
    meta = pod["metadata"]
    return {"targets": [f"{_address(pod)}:{PORT}"], "labels": {"namespace": meta["namespace"], "pod": meta["name"]}}
