"""The server's configuration: JSON in the variable MODELYARD_CONFIG, checked at once and as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class InvalidConfig(Exception):
    """MODELYARD_CONFIG is wrong; the message lists every issue."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class ModelSection(_Section):
    """Which artifact is served, and under which name."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
    path: Path
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")  # empty: any artifact
    version: str = Field(default="1", min_length=1, max_length=63, pattern=r"^[A-Za-z0-9._-]+$")


class BatchingSection(_Section):
    """How requests are put together while the model computes."""

    max_batch_size: int = Field(default=32, ge=1, le=4096)  # rows; 1 = no batching
    # Longest wait of a request for others whose bodies are still arriving; nothing else is ever waited for.
    max_latency_milliseconds: float = Field(default=5, ge=0, le=10_000)


class GenerationSection(_Section):
    """How text is generated; for models that do."""

    max_model_len: int = Field(default=0, ge=0)  # tokens of prompt and answer; 0 = what the model was built for
    max_num_seqs: int = Field(default=16, ge=1, le=4096)  # sequences that share a step
    kv_cache_memory: int = Field(default=536_870_912, ge=65_536)  # bytes for keys and values
    prefix_caching: bool = True  # whether common beginnings of prompts are computed once
    dtype: Literal["float32", "bfloat16"] = "float32"  # of weights, keys and values


class ExplainSection(_Section):
    """Explanations of answers, by a process beside the server that the first request for one starts."""

    enabled: bool = True
    steps: int = Field(default=50, ge=1, le=1000)  # points on the way from the baseline, to begin with


class ValidationSection(_Section):
    """Whether the artifact's golden answers must be reproduced before the server is ready, and how closely."""

    golden: Literal["Required", "IfPresent", "Off"] = "IfPresent"
    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-4, ge=0)


class LimitsSection(_Section):
    """What one server takes on before it says no."""

    max_queue: int = Field(default=1000, ge=1)  # requests waiting for the model
    max_wait_seconds: float = Field(default=8, gt=0)  # until the model is free for one more, as far as can be told
    # Bytes of all bodies held at a time; no single request may be larger than this either.
    max_pending_bytes: int = Field(default=268_435_456, ge=1024)
    timeout_seconds: float = Field(default=60, gt=0, le=3600)
    max_request_bytes: int = Field(default=67_108_864, ge=1024)  # of the body, after decompression too
    container_concurrency: int = Field(default=0, ge=0)  # requests computed at a time; 0 = as many as a batch holds


class DrainSection(_Section):
    """After SIGTERM."""

    timeout_seconds: float = Field(default=45, ge=0)


class AuthSection(_Section):
    """Who may send requests."""

    keys_path: Path  # a directory with a file for each API key


class ServerSection(_Section):
    """Where to listen."""

    host: str = "0.0.0.0"
    port: int = Field(default=8080, ge=0, le=65535)  # 0 = any free port, printed in the log
    grpc_port: int | None = Field(default=None, ge=0, le=65535)  # null = no gRPC


class ServeConfig(_Section):
    """The whole of MODELYARD_CONFIG for a server."""

    model: ModelSection
    batching: BatchingSection = BatchingSection()
    generation: GenerationSection = GenerationSection()
    explain: ExplainSection | None = None  # null = no explanations
    validation: ValidationSection = ValidationSection()
    limits: LimitsSection = LimitsSection()
    drain: DrainSection = DrainSection()
    server: ServerSection = ServerSection()
    auth: AuthSection | None = None  # null = everybody


def parse_config(text: str) -> ServeConfig:
    """Parse MODELYARD_CONFIG. Raises InvalidConfig that lists all issues, each with its field."""
    if not text.strip():
        raise InvalidConfig('MODELYARD_CONFIG is not set; write at least {"model": {"name": "…", "path": "…"}}')
    try:
        return ServeConfig.model_validate_json(text)
    except ValidationError as error:
        issues = [f"{'.'.join(map(str, issue['loc'])) or 'JSON'}: {issue['msg']}" for issue in error.errors()]
        raise InvalidConfig("MODELYARD_CONFIG: " + "; ".join(issues)) from None
