"""The cluster's processes, found by a mark in their environment: no pid files that could lie or get lost.

Every part is started with MODELYARD_LOCAL_ROOT (which cache directory), _PART (which part) and _CONFIG (a hash of its
command and configuration files), so `up` can tell a running part from one that must be restarted.
"""

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from localcluster.layout import Layout, LocalClusterError

MARK = "MODELYARD_LOCAL_"
PASSED_ON = ("PATH", "HOME", "LANG", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
PASSED_ON_TLS = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Part:
    """One process of the cluster: its name, command, and the files that it reads at its start."""

    name: str
    command: tuple[str, ...]
    files: tuple[Path, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Changes when the command, a configuration file or the binary does."""
        digest = hashlib.sha256("\0".join([*self.command, *sorted(self.environment.values())]).encode())
        for path in self.files:
            digest.update(path.read_bytes() if path.exists() else b"")
        with contextlib.suppress(OSError):
            status = Path(self.command[0]).stat()
            digest.update(f"{status.st_size}:{status.st_mtime_ns}".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Running:
    """A live process that carries our mark."""

    pid: int
    part: str
    config: str
    is_main: bool  # False for a child that inherited the mark: a containerd shim, an iptables call


def parse_environment(raw: bytes) -> dict[str, str]:
    """The variables of /proc/PID/environ: zero-separated NAME=value."""
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if b"=" in entry)
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, _, value in pairs}


def running(layout: Layout) -> list[Running]:
    """Every process that carries the mark of this cache directory, children included, zombies not."""
    found = []
    mark = f"{MARK}ROOT={layout.root}".encode()
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            raw = (directory / "environ").read_bytes()
            if mark not in raw.split(b"\0"):
                continue
            variables = parse_environment(raw)
            argv = (directory / "cmdline").read_bytes().split(b"\0")
            part, config = variables.get(f"{MARK}PART", ""), variables.get(f"{MARK}CONFIG", "")
            is_main = argv[0].decode(errors="replace") == variables.get(f"{MARK}PROGRAM")
            found.append(Running(int(directory.name), part, config, is_main))
    return found


def is_current(layout: Layout, part: Part) -> bool:
    """Whether `part` runs, once, with this very configuration."""
    configs = [process.config for process in running(layout) if process.is_main and process.part == part.name]
    return configs == [part.fingerprint()]


def start(layout: Layout, part: Part) -> bool:
    """Start `part` unless it runs with this very configuration; restart it if with another. True if started."""
    if is_current(layout, part):
        return False
    stop(layout, [part.name])
    environment = {name: os.environ[name] for name in (*PASSED_ON, *PASSED_ON_TLS) if name in os.environ}
    environment |= {"PATH": f"{layout.bin}:{os.environ.get('PATH', os.defpath)}", **part.environment}
    environment |= {f"{MARK}ROOT": str(layout.root), f"{MARK}PART": part.name}
    environment |= {f"{MARK}CONFIG": part.fingerprint(), f"{MARK}PROGRAM": part.command[0]}
    with log_path(layout, part.name).open("w") as log:
        subprocess.Popen(
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,  # Ctrl-C in the terminal that ran `up` must not reach it
        )
    return True


def stop(layout: Layout, names: Iterable[str], patience: float = 20.0) -> None:
    """SIGTERM to the named parts at once, SIGKILL to those still there after `patience` seconds."""
    wanted = set(names)
    victims = [process.pid for process in running(layout) if process.is_main and process.part in wanted]
    end(victims, patience)


def end(pids: list[int], patience: float) -> None:
    """Ask, wait up to `patience` seconds, then kill."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            pids = [pid for pid in pids if is_alive(pid)]
            if not pids:
                return
            time.sleep(0.05)
    if pids:
        raise LocalClusterError(
            f"processes {pids} did not end on SIGKILL; look at them with `ps -o pid,stat,wchan,cmd`"
        )


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie; reaps it when it is a child of ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def log_path(layout: Layout, name: str) -> Path:
    return layout.log / f"{name}.log"


def log_tail(layout: Layout, name: str, lines: int = 15) -> str:
    """The end of a part's log, for an error message."""
    try:
        return "\n".join(log_path(layout, name).read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
