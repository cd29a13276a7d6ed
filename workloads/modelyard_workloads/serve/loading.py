"""From a directory to a model that may serve: digest, weights, golden answers. Runs on the inference thread."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from threading import Thread
from time import monotonic

from modelyard_workloads.artifact import Artifact, ArtifactError, read_artifact
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import GENERATIVE, Runtime, build_runtime

log = logging.getLogger(__name__)

_KNOWN_REASONS = {"ArtifactMissing", "DigestMismatch"}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """The outcome of `load`; `seconds` is how long it took."""

    artifact: Artifact
    runtime: Runtime
    seconds: float


def load(config: ServeConfig) -> Loaded:
    """Read, verify, build, and reproduce the golden answers. Raises LoadFailure and nothing else."""
    started = monotonic()
    # Every model needs torch, whose import takes longer than most weights take to hash; hashing lets it run meanwhile.
    imports = Thread(target=import_module, args=("torch",), name="imports", daemon=True)
    imports.start()
    try:
        artifact = read_artifact(config.model.path, config.model.digest)
    except ArtifactError as error:
        reason = error.reason if error.reason in _KNOWN_REASONS else "ModelLoadFailed"
        raise LoadFailure(reason, str(error)) from None
    verified = monotonic()
    log.info("artifact %s verified in %.2f s", artifact.digest, verified - started)
    imports.join()
    try:
        if artifact.manifest.task in GENERATIVE:
            return _load_generation(artifact, config, started)
        runtime = build_runtime(artifact)
        built = monotonic()
        worst = check_golden(runtime, artifact.manifest.golden, config.validation)
    except LoadFailure:
        raise
    except Exception as error:  # whatever the libraries say about weights that do not fit
        log.exception("the model cannot be built")
        raise LoadFailure("ModelLoadFailed", f"{type(error).__name__}: {error}") from error
    now = monotonic()
    log.info(
        "model built in %.2f s; %d golden answers within %.2g in %.2f s",
        built - verified,
        len(artifact.manifest.golden),
        worst,
        now - built,
    )
    return Loaded(artifact=artifact, runtime=runtime, seconds=now - started)


def _load_generation(artifact: Artifact, config: ServeConfig, started: float) -> Loaded:
    """A language model, which has an engine and golden continuations."""
    from modelyard_workloads.serve.generation.golden import check_golden_generation
    from modelyard_workloads.serve.generation.runtime import build_generation_runtime

    began = monotonic()
    runtime = build_generation_runtime(artifact, config)
    built = monotonic()
    cases, worst = check_golden_generation(runtime, artifact.manifest, config.validation)
    now = monotonic()
    log.info("model built in %.2f s; %d golden answers within %.2g in %.2f s", built - began, cases, worst, now - built)
    return Loaded(artifact=artifact, runtime=runtime, seconds=now - started)
