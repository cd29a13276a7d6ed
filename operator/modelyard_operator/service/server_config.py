"""The MODELYARD_CONFIG of a bundled server (`modelyard_workloads.serve.config`). Pure."""

from __future__ import annotations

import json

from modelyard_operator.plan import Object
from modelyard_operator.quantity import amount
from modelyard_operator.service.runtime import GRPC_PORT, HTTP_PORT
from modelyard_operator.service.source import model_directory
from modelyard_operator.service.spec import ModelServiceSpec
from modelyard_operator.service.traffic_spec import Limits

KEYS_PATH = "/var/run/modelyard/keys"
"""Where the Secret of API keys is mounted, a file for each."""


def server_config(name: str, spec: ModelServiceSpec, model: Object, revision: str) -> str:
    """JSON text; `name` is the model's name in URLs."""
    config: Object = {
        "model": {
            "name": name,
            "path": model_directory(model),
            "digest": model.get("digest") or "",
            "version": revision,
        },
        "batching": {
            "maxBatchSize": spec.batching.max_batch_size,
            "maxLatencyMilliseconds": spec.batching.max_latency_milliseconds,
        },
        "validation": {"golden": spec.validation.golden, "rtol": spec.validation.rtol, "atol": spec.validation.atol},
        "limits": limits(spec),
        "drain": {"timeoutSeconds": spec.drain.timeout_seconds},
        "server": {"host": "0.0.0.0", "port": HTTP_PORT, "grpcPort": GRPC_PORT},
    }
    if spec.generation is not None:
        config["generation"] = {
            "maxModelLen": spec.generation.max_model_len,
            "maxNumSeqs": spec.generation.max_num_seqs,
            "kvCacheMemory": int(amount(str(spec.generation.kv_cache_memory))),
            "prefixCaching": spec.generation.prefix_caching,
        }
        if spec.generation.dtype != "float32":
            config["generation"]["dtype"] = spec.generation.dtype
    if spec.explain is not None:
        config["explain"] = {"enabled": spec.explain.enabled, "steps": spec.explain.steps}
    if spec.auth.mode == "ApiKey":
        config["auth"] = {"keysPath": KEYS_PATH}
    return json.dumps(config, separators=(",", ":"))


def limits(spec: ModelServiceSpec) -> Object:
    """The limits in the words of servers and routers."""
    wait = spec.limits.max_wait_seconds
    default = Limits().max_wait_seconds  # not said: servers of before know no such limit
    return {
        **({"maxWaitSeconds": wait} if wait != default else {}),
        "maxQueue": spec.limits.max_queue,
        "timeoutSeconds": spec.limits.timeout_seconds,
        "maxRequestBytes": int(amount(str(spec.limits.max_request_bytes))),
        "containerConcurrency": spec.limits.container_concurrency,
    }
