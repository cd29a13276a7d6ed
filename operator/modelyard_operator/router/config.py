"""The router's configuration: JSON in the variable MODELYARD_ROUTER, written by `service.routing`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel


class InvalidConfig(Exception):
    """MODELYARD_ROUTER is wrong; the message lists every issue."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class Backend(_Section):
    """A revision, the address of its Service, and its share."""

    revision: str = Field(min_length=1)
    host: str = Field(min_length=1)
    port: int = Field(default=80, ge=1, le=65535)
    grpc_port: int = Field(default=8081, ge=1, le=65535)
    percent: int = Field(default=0, ge=0, le=100)


class Tolerance(_Section):
    """How far numbers of two answers may be apart and still be alike."""

    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-4, ge=0)


class RouterConfig(_Section):
    """The whole of MODELYARD_ROUTER."""

    table: str = ""  # the table's name, told back in the status
    backends: list[Backend] = Field(min_length=1)
    mirror: Backend | None = None  # gets copies of what the first backend gets
    tolerance: Tolerance = Tolerance()
    host: str = "0.0.0.0"
    port: int = Field(default=8080, ge=0, le=65535)  # 0 = any free port, told in the log
    grpc_port: int | None = Field(default=None, ge=0, le=65535)  # null = no gRPC
    admin_port: int = Field(default=9090, ge=0, le=65535)
    max_held: int = Field(default=1000, ge=0)  # requests that wait for a server; more get a 503
    hold_seconds: float = Field(default=300, gt=0)  # how long one waits
    timeout_seconds: float = Field(default=60, gt=0)  # for the head of an answer, and between two of its pieces
    drain_seconds: float = Field(default=45, ge=0)


def parse_config(text: str) -> RouterConfig:
    """Parse MODELYARD_ROUTER. Raises InvalidConfig that lists all issues, each with its field."""
    if not text.strip():
        raise InvalidConfig('MODELYARD_ROUTER is not set; write at least {"backends": [{"revision": …, "host": …}]}')
    try:
        return RouterConfig.model_validate_json(text)
    except ValidationError as error:
        issues = [f"{'.'.join(map(str, issue['loc'])) or 'JSON'}: {issue['msg']}" for issue in error.errors()]
        raise InvalidConfig("MODELYARD_ROUTER: " + "; ".join(issues)) from None
