"""One fsspec file system for every scheme of an address, every network call with a timeout.

Credentials are variables of the pod with a prefix that says whose they are: `MODELYARD_DATASET_AWS_ACCESS_KEY_ID` are
the data set's, `MODELYARD_MODEL_…` the initial weights'. They are the keys of the Secret that `secretRef` names:

    s3://    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL, AWS_REGION
    gs://    GOOGLE_APPLICATION_CREDENTIALS_JSON, GOOGLE_ENDPOINT_URL
    hf://    HF_TOKEN, HF_ENDPOINT
    oci://   OCI_USERNAME, OCI_PASSWORD, or a Secret of type kubernetes.io/dockerconfigjson; see `data.registry`

S3 and Google Cloud Storage are reached through pyarrow (its AWS SDK and google-cloud-cpp), wrapped for fsspec.
"""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper

from modelyard_workloads.data.layers import Unpacking

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
# With one of these the AWS SDK finds an identity that the cluster gave to this pod. Without, it would ask the node's
# metadata service, whose identity is not the pod's.
_POD_IDENTITY = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_ACCESS_KEY_ID")
_google_variable = threading.Lock()

Credentials = Mapping[str, str]


def credentials(prefix: str, environment: Mapping[str, str] = os.environ) -> Credentials:
    """The variables that begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in environment.items() if name.startswith(prefix)}


def open_filesystem(scheme: str, keys: Credentials, unpacking: Unpacking | None = None) -> Any:
    """The fsspec file system of `file`, `s3`, `gs`, `https`, `hf` or `oci`; `unpacking` is for the last. Raises
    ValueError for credentials that cannot be used, and whatever the library raises.
    """
    if scheme == "file":
        return fsspec.filesystem("file", skip_instance_cache=True)
    if scheme == "oci":
        from modelyard_workloads.data.registry import Registry

        return Registry(keys, unpacking)
    return {"s3": _s3, "gs": _google, "https": _https, "hf": _hugging_face}[scheme](keys)


class ObjectStore(ArrowFSWrapper):  # type: ignore[misc]
    """A pyarrow file system as fsspec's; a key is taken as it is, also with `?` or `#` in it."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.rstrip("/")


def _s3(keys: Credentials) -> Any:
    from pyarrow import fs

    arguments: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "request_timeout": READ_SECONDS}
    if keys.get("AWS_ACCESS_KEY_ID") and keys.get("AWS_SECRET_ACCESS_KEY"):
        arguments["access_key"] = keys["AWS_ACCESS_KEY_ID"]
        arguments["secret_key"] = keys["AWS_SECRET_ACCESS_KEY"]
        arguments["session_token"] = keys.get("AWS_SESSION_TOKEN") or None
    elif keys.get("AWS_ACCESS_KEY_ID") or keys.get("AWS_SECRET_ACCESS_KEY"):
        raise ValueError("the Secret must have both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    elif not any(name in os.environ for name in _POD_IDENTITY):
        arguments["anonymous"] = True
    if endpoint := keys.get("AWS_ENDPOINT_URL"):
        arguments["scheme"], arguments["endpoint_override"] = _endpoint("AWS_ENDPOINT_URL", endpoint)
        arguments["region"] = "us-east-1"
    if region := keys.get("AWS_REGION"):
        arguments["region"] = region
    return ObjectStore(fs.S3FileSystem(**arguments, retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=3)))


def _google(keys: Credentials) -> Any:
    from pyarrow import fs

    arguments: dict[str, Any] = {"retry_time_limit": timedelta(seconds=READ_SECONDS)}
    if endpoint := keys.get("GOOGLE_ENDPOINT_URL"):
        arguments["scheme"], arguments["endpoint_override"] = _endpoint("GOOGLE_ENDPOINT_URL", endpoint)
    document = keys.get("GOOGLE_APPLICATION_CREDENTIALS_JSON")
    if not document:
        return ObjectStore(fs.GcsFileSystem(anonymous=True, **arguments))
    # The library reads credentials from a file that a variable names, once, when the client is made.
    with _google_variable, tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "credentials.json"
        path.touch(mode=0o600)
        path.write_text(document, encoding="utf-8")
        before = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(path)
        try:
            return ObjectStore(fs.GcsFileSystem(**arguments))
        finally:
            del os.environ["GOOGLE_APPLICATION_CREDENTIALS"]
            if before is not None:
                os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = before


def _https(_keys: Credentials) -> Any:
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
    return fsspec.filesystem(
        "https",
        skip_instance_cache=True,
        client_kwargs={"timeout": timeout},
        ssl=ssl.create_default_context(),  # honours SSL_CERT_FILE, for authorities of one's own
    )


def _hugging_face(keys: Credentials) -> Any:
    from huggingface_hub import HfFileSystem, get_session

    get_session().timeout = READ_SECONDS
    # Without a token it must not look for one in the home directory.
    return HfFileSystem(
        token=keys.get("HF_TOKEN") or False, endpoint=keys.get("HF_ENDPOINT") or None, skip_instance_cache=True
    )


def _endpoint(name: str, url: str) -> tuple[str, str]:
    """(scheme, host:port)"""
    parts = urlparse(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
        raise ValueError(f"{name} must be http(s)://HOST[:PORT], not {url!r}")
    return parts.scheme, parts.netloc
