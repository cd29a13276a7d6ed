"""Which cluster the demo runs on: the context that DEMO_CONTEXT names, else the local cluster (kind, or our own)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.imagebuild import PROJECT_IMAGES, fingerprint
from localcluster.layout import CONTEXT, Layout

from demo.errors import DemoError
from demo.kubectl import Tools

TESTS = Path(__file__).resolve().parent.parent
REPOSITORY = TESTS.parent
BUILD_SECONDS = 3600
OPERATOR_IMAGE, WORKLOADS_IMAGE = (image.name for image in PROJECT_IMAGES)


@dataclass(frozen=True)
class Target:
    """`images_key` changes with the content of images that keep their name; empty where we do not build them."""

    tools: Tools
    local: bool
    operator_image: str
    workloads_image: str
    images_key: str = ""


def named_context(environment: Mapping[str, str] = os.environ) -> str:
    """The context to use instead of the local cluster; empty without one. Never the current context by accident."""
    return environment.get("DEMO_CONTEXT", "")


def named(context: str, environment: Mapping[str, str] = os.environ) -> Target:
    """A cluster of the user's: its nodes must get both images by themselves."""
    tools = Tools(_program("kubectl"), _program("helm"), context, None)
    tools.run_kubectl("version")
    return Target(
        tools,
        local=False,
        operator_image=environment.get("DEMO_OPERATOR_IMAGE", OPERATOR_IMAGE),
        workloads_image=environment.get("DEMO_WORKLOADS_IMAGE", WORKLOADS_IMAGE),
    )


def local_tools() -> Tools | None:
    """The tools for the local cluster if one has been brought up; it may be stopped by now."""
    layout = Layout.from_environment()
    if not layout.kubeconfig.exists():
        return None
    found = {name: str(layout.bin / name) for name in ("kubectl", "helm")}
    kubectl, helm = (path if Path(path).exists() else _program(name) for name, path in found.items())
    return Tools(kubectl, helm, CONTEXT, layout.kubeconfig)


def local() -> Target:
    """The local cluster, which `bring_up` has started, and the images that it has built there."""
    tools = local_tools()
    if tools is None:
        raise DemoError("the local cluster has no kubeconfig; look at what `make cluster` says")
    return Target(tools, True, OPERATOR_IMAGE, WORKLOADS_IMAGE, fingerprint(PROJECT_IMAGES[0])[:16])


def localcluster(*arguments: str, quiet: bool = False) -> None:
    """Run a command of the local cluster; its progress lines go to our terminal."""
    done = subprocess.run(
        _command(*arguments), stdout=subprocess.DEVNULL, capture_output=False, timeout=BUILD_SECONDS, check=False,
        stderr=subprocess.DEVNULL if quiet else None,
    )  # fmt: skip
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode != 0:
        raise DemoError(f"`localcluster {' '.join(arguments)}` failed; its message is above")


def start_localcluster(*arguments: str) -> "subprocess.Popen[str]":
    """The same in the background, with what it says kept."""
    return subprocess.Popen(_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "localcluster", *arguments]


def _program(name: str) -> str:
    """On PATH, or among the local cluster's binaries."""
    built = Layout.from_environment().bin / name
    found = shutil.which(name) or (str(built) if built.exists() else None)
    if found is None:
        raise DemoError(f"{name} is missing: install it and put it on PATH (https://kubernetes.io/docs/tasks/tools/, "
                        "https://helm.sh/docs/intro/install/)")  # fmt: skip
    return found
