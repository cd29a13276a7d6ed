"""The spec of a ModelService: the single source of the CRD, its descriptions, and of what the operator accepts."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from modelyard_operator.parsing import parse_object
from modelyard_operator.pods import POD_RULES, Env, LabelName, PodOptions, Resources
from modelyard_operator.schema import Matches, Model, Quantity, Rule, cel, has_text
from modelyard_operator.service.checks import BUILTIN, RESERVED_ENV_PREFIXES, SOURCE_SCHEMES, check
from modelyard_operator.service.scaling_spec import Scaling
from modelyard_operator.service.traffic_spec import Auth, Drain, Limits, Rollout, Route
from modelyard_operator.uris import uri_form


class TrainingRef(Model):
    """A ModelTraining whose artifact is served."""

    name: LabelName
    """The ModelTraining's name, in the same namespace."""
    artifact: Literal["best", "final"] = "best"
    """Which of its artifacts."""
    policy: Literal["Pinned", "Follow"] = "Pinned"
    """Pinned looks the artifact up once for each change of this spec; Follow makes a new revision of each one that
    the training publishes."""


class Source(
    Model,
    json_schema_extra=cel(
        Rule(f"has(self.trainingRef) != ({has_text('self.uri')})", "write exactly one of trainingRef and uri")
    ),
):
    """Where the model is."""

    training_ref: TrainingRef | None = None
    """A ModelTraining whose artifact is served."""
    uri: Annotated[str, uri_form(SOURCE_SCHEMES)] = ""
    """An artifact directory: pvc://CLAIM/PATH is mounted; s3://, gs://, https://, hf:// and oci:// are loaded into
    each pod before it starts."""


class ServedModel(Model):
    """What is served."""

    name: Annotated[str, Matches(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", "must be letters, digits, '-_.'")] = ""
    """The model's name in URLs; the ModelService's own name if empty."""
    source: Source
    """Where the model is."""
    digest: Annotated[str, Matches(r"|sha256:[0-9a-f]{64}", "write sha256:<64 hexadecimal digits>", 71)] = ""
    """The digest that the artifact must have; if empty, the one that the training published."""
    secret_ref: Annotated[str, Field(max_length=253)] = ""
    """The Secret with credentials for the URI: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, HF_TOKEN, OCI_USERNAME
    and the like."""


_SERVER_ENV_IS_OURS = Rule(
    "!has(self.env) || self.env.all(e, "
    + " && ".join(f"!e.name.startsWith('{prefix}')" for prefix in RESERVED_ENV_PREFIXES)
    + ")",
    f"env names beginning with {' or '.join(RESERVED_ENV_PREFIXES)} are set by the operator; remove them",
)


class Predictor(PodOptions, json_schema_extra=cel(*POD_RULES, _SERVER_ENV_IS_OURS)):
    """The server's pods. Image and command are the runtime's own if empty."""

    image: Annotated[str, Field(max_length=1024)] = ""
    """Another image with the same server."""
    command: Annotated[list[str], Field(max_length=64)] = []
    """Another command."""
    args: Annotated[list[str], Field(max_length=256)] = []
    """Arguments of the command."""
    env: Env = []
    """Environment variables. Those beginning with MODELYARD_ are the operator's."""
    resources: Resources = Resources()
    """Requests and limits of each pod."""


class Batching(Model):
    """Requests put together into one call of the model."""

    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 32
    """The most samples in a batch; 1 turns batching off."""
    max_latency_milliseconds: Annotated[float, Field(ge=0, le=10000)] = 5
    """The longest wait for a batch to fill."""


class Generation(Model):
    """Settings of language models."""

    max_model_len: Annotated[int, Field(ge=0)] = 0
    """The most tokens of a prompt and its answer; 0 takes the model's own limit."""
    max_num_seqs: Annotated[int, Field(ge=1)] = 16
    """The most answers that are written at once."""
    kv_cache_memory: Quantity = "512Mi"
    """Memory for keys and values."""
    prefix_caching: bool = True
    """Whether common beginnings of prompts are computed once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What weights, keys and values are kept and computed in. bfloat16 takes half of the memory and, on a GPU, of the
    time; answers are then as near to the recorded ones as it can represent."""


class Explain(Model):
    """Explanations of predictions, by a process beside the server that takes only what predictions leave over."""

    enabled: bool = True
    """Whether the server explains."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Steps of integrated gradients; the server takes more where these do not account for the prediction."""


class Validation(Model):
    """What a pod must prove before it gets requests."""

    golden: Literal["Required", "IfPresent", "Off"] = "IfPresent"
    """Whether the server must reproduce the answers that the training recorded with the artifact."""
    rtol: Annotated[float, Field(ge=0)] = 1e-3
    """The relative error that is let pass."""
    atol: Annotated[float, Field(ge=0)] = 1e-4
    """The absolute error that is let pass."""


_KEYS_ARE_BUILTIN = Rule(
    f"self.?runtime.orValue('{BUILTIN}') == '{BUILTIN}' || !has(self.auth) || self.auth.?mode.orValue('') != 'ApiKey'",
    "the bundled server alone asks for keys; write mode None, and have that server or a gateway ask for them",
    ".auth",
)


class ModelServiceSpec(Model, json_schema_extra=cel(_KEYS_ARE_BUILTIN)):
    """What is served, and how."""

    model: ServedModel
    """What is served."""
    runtime: LabelName = BUILTIN
    """The server: builtin, or the name of a runtime profile of the operator's (vllm, triton, custom…). batching,
    generation, explain, auth and golden: Required are for builtin."""
    predictor: Predictor = Predictor()
    """The server's pods."""
    replicas: Annotated[int, Field(ge=0, le=1000)] = 1
    """How many pods. Not used with scaling by backend Internal."""
    scaling: Scaling | None = None
    """How many pods, by load."""
    batching: Batching = Batching()
    """Requests put together into one call of the model."""
    generation: Generation | None = None
    """Settings of language models."""
    explain: Explain | None = None
    """Explanations of predictions: what each pixel, token or column contributed. None are given if empty."""
    validation: Validation = Validation()
    """What a pod must prove before it gets requests."""
    rollout: Rollout = Rollout()
    """How one revision replaces another."""
    limits: Limits = Limits()
    """What the server refuses instead of breaking down."""
    drain: Drain = Drain()
    """How a pod ends without losing a request."""
    auth: Auth = Auth()
    """Who may send requests."""
    route: Route = Route()
    """How requests come in."""
    suspend: bool = False
    """True removes the pods and keeps the rest. An edit meanwhile is rolled out when it is false again."""


def parse(body: Mapping[str, Any]) -> ModelServiceSpec:
    """The spec of a ModelService object. Raises InvalidSpec with every issue of it."""
    return parse_object(body, ModelServiceSpec, check)
