"""`python -m localcluster COMMAND`: see --help, or the Makefile's targets."""

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from localcluster import backend, fakes, golang, imagebuild, kind, leftovers, node, provisioner, settings, teardown
from localcluster.layout import CONTEXT, Layout, LocalClusterError
from localcluster.progress import say

Command = Callable[[Layout, argparse.Namespace], int]


def main() -> int:
    """Parse the command line and run one command; 1 with a message on an error that the reader can act upon."""
    arguments = _parser().parse_args()
    command: Command = arguments.run
    try:
        return command(Layout.from_environment(), arguments)
    except LocalClusterError as error:
        say(f"error: {error}")
        return 1
    except subprocess.TimeoutExpired as error:
        say(f"error: {error.cmd} did not end within {error.timeout:.0f} s")
        return 1
    except KeyboardInterrupt:
        say("\ninterrupted; the same command goes on from here")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localcluster", description="A Kubernetes cluster on this machine.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, description: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=description, description=description)
        command.set_defaults(run=run)
        return command

    add("up", _up, "bring the cluster up, or make sure that it is; prints what to eval")
    add("down", _down, "stop it and remove its state; exit 1 if anything is left on the machine")
    add("purge", _purge, "down, and remove binaries, images and build caches")
    add("env", _env, "print the export lines of a cluster that is up")
    add("bin", _bin, "print the directory with kubectl, helm, ctr, kwok and etcd")
    add("leftovers", _leftovers, "list what of the cluster is on the machine now; exit 1 if anything is")
    add("images", _images, "build both images of this repository if their inputs changed")
    image = add("image", _image, "build an image from DIR/DOCKERFILE straight into the cluster")
    image.add_argument("directory", type=Path, metavar="DIR")
    image.add_argument("dockerfile", metavar="DOCKERFILE", help="file name, relative to DIR")
    image.add_argument("name", metavar="NAME:TAG")
    image.add_argument("--context", type=Path, help="build context (default: DIR)")
    gpus = add("gpus", _gpus, "give the node N fake nvidia.com/gpu")
    gpus.add_argument("count", type=_count, metavar="N")
    kwok = add("kwok", _kwok, "have N fake nodes played by kwok; 0 removes them")
    kwok.add_argument("count", type=_count, metavar="N")
    helm = add("helm", _helm, "run helm with the cluster's kubeconfig, built on first use")
    helm.add_argument("arguments", nargs=argparse.REMAINDER)
    add("serve-volumes", _serve_volumes, "the volume provisioner; the cluster starts it itself")
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a number from 0, got {text!r}")
    return int(text)


@contextlib.contextmanager
def _locked(layout: Layout, name: str = "cluster") -> Iterator[None]:
    """One change of the cluster, and one image build, at a time. The kernel lets go of a lock when its process ends."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with (layout.root / f"{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another localcluster command to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _backend(layout: Layout) -> backend.Backend:
    """The backend of the cluster that is up, or the one that this machine can have."""
    if settings.exist(layout):
        return settings.load(layout).backend
    return backend.choose(backend.Machine.inspect())


def _up(layout: Layout, arguments: argparse.Namespace) -> int:
    with _locked(layout):
        if _backend(layout) == "kind":
            kind.up(layout)
        else:
            node.up(layout)
            _link_system_programs(layout)
        fakes.resume_kwok(layout)
    return _env(layout, arguments)


def _down(layout: Layout, _: argparse.Namespace) -> int:
    with _locked(layout):
        found = kind.down(layout) if _backend(layout) == "kind" else [str(item) for item in teardown.down(layout)]
    return _report(found)


def _purge(layout: Layout, _: argparse.Namespace) -> int:
    with _locked(layout):
        # the node's own purge ends pods and takes back rules of the whole machine: none of them are kind's
        found = kind.purge(layout) if _backend(layout) == "kind" else [str(item) for item in teardown.purge(layout)]
    return _report(found)


def _leftovers(layout: Layout, _: argparse.Namespace) -> int:
    found = kind.leftovers() if _backend(layout) == "kind" else [str(item) for item in leftovers.find(layout)]
    return _report(found)


def _report(found: list[str]) -> int:
    for item in found:
        print(f"left over: {item}")
    if not found:
        print("nothing is left of the cluster on this machine")
    return 1 if found else 0


def _env(layout: Layout, _: argparse.Namespace) -> int:
    if not layout.kubeconfig.exists():
        raise LocalClusterError("no cluster is up; start one with `make cluster`")
    values = {
        "KUBECONFIG": str(layout.kubeconfig),
        "MODELYARD_CONTEXT": CONTEXT,
        "MODELYARD_AUDIT_LOG": str(layout.audit_log),
    }
    if _backend(layout) == "node":
        values["CONTAINERD_ADDRESS"] = str(layout.containerd_socket)
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PATH={shlex.quote(str(layout.bin))}:"$PATH"')
    return 0


def _bin(layout: Layout, _: argparse.Namespace) -> int:
    print(layout.bin)
    return 0


def _link_system_programs(layout: Layout) -> None:
    program, link = shutil.which("ctr"), layout.bin / "ctr"
    if program is not None and not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(program)


def _images(layout: Layout, _: argparse.Namespace) -> int:
    with _locked(layout, "images"):
        if _backend(layout) == "kind":
            kind.build_project_images(layout)
        else:
            imagebuild.build_project_images(layout)
    return 0


def _image(layout: Layout, arguments: argparse.Namespace) -> int:
    dockerfile = (arguments.directory / arguments.dockerfile).resolve()
    context = (arguments.context or arguments.directory).resolve()
    with _locked(layout, "images"):
        if _backend(layout) == "kind":
            kind.build(dockerfile, arguments.name, context)
        else:
            imagebuild.build(layout, dockerfile, arguments.name, context)
    return 0


def _gpus(layout: Layout, arguments: argparse.Namespace) -> int:
    fakes.set_gpus(layout, arguments.count)
    return 0


def _kwok(layout: Layout, arguments: argparse.Namespace) -> int:
    with _locked(layout):
        fakes.set_kwok_nodes(layout, arguments.count)
    return 0


def _helm(layout: Layout, arguments: argparse.Namespace) -> int:
    golang.build(layout, (golang.HELM,))
    sys.stdout.flush()
    helm = str(layout.bin / "helm")
    os.execve(helm, [helm, *arguments.arguments], {**os.environ, "KUBECONFIG": str(layout.kubeconfig)})


def _serve_volumes(layout: Layout, _: argparse.Namespace) -> int:
    provisioner.run(layout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
