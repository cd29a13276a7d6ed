"""`spec.trainer` of a ModelTraining: what runs, and the environment variables that are the operator's to set."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.pods import Env, Resources
from modelyard_operator.schema import AutoOrCount, FreeForm, Model, Rule, ShareOrQuantity, Supported, cel, has_text

Builtin = Literal[
    "",
    "bert-pretraining",
    "text-classification",
    "token-classification",
    "question-answering",
    "causal-lm",
    "image-classification",
    "recommendation",
]
SUPPORTED_BUILTINS = (
    "bert-pretraining",
    "causal-lm",
    "image-classification",
    "question-answering",
    "recommendation",
    "text-classification",
    "token-classification",
)
PRIVATE_BUILTINS = ("image-classification", "recommendation", "text-classification")
"""Those that know differential privacy."""

RESERVED_ENV_PREFIXES = ("MODELYARD_", "KUBEFLOW_TRAINER_")
_TORCH_ENV = (
    "MASTER_ADDR",
    "MASTER_PORT",
    "NNODES",
    "NODE_RANK",
    "NPROC_PER_NODE",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)
RENDEZVOUS_ENV: dict[str, tuple[str, ...]] = {
    "torch": _TORCH_ENV,
    "tensorflow": ("TF_CONFIG",),
    "paddle": (),
    "none": (),
}
"""Set by the operator, or by the framework's own launcher after it."""
RENDEZVOUS_PREFIXES: dict[str, tuple[str, ...]] = {
    "torch": ("PET_",),
    "tensorflow": (),
    "paddle": ("PADDLE_",),
    "none": (),
}


def _no_prefix(variable: str, prefixes: tuple[str, ...]) -> str:
    return " && ".join(f"!{variable}.startsWith('{prefix}')" for prefix in prefixes)


_ONE_TRAINER = Rule(
    f"({has_text('self.builtin')}) != ({has_text('self.image')})",
    "write exactly one of builtin (a trainer of ours) and image (your own)",
)
_PARAMETERS_ARE_BUILTIN = Rule(
    f"!has(self.parameters) || ({has_text('self.builtin')})",
    "parameters belong to a builtin trainer; give your own image its settings by args or env",
)
_COMMAND_IS_IMAGE = Rule(
    f"!({has_text('self.builtin')}) || (!has(self.command) && !has(self.args))",
    "a builtin trainer has its own command and args; set parameters, or use image",
)
_STATUS_ENV_IS_OURS = Rule(
    f"!has(self.env) || self.env.all(e, {_no_prefix('e.name', RESERVED_ENV_PREFIXES)})",
    f"env names beginning with {' or '.join(RESERVED_ENV_PREFIXES)} are set by the operator; remove them",
)
_RENDEZVOUS_ENV_IS_OURS = Rule(
    "!has(self.env) || self.rendezvous != 'torch' || self.env.all(e,"
    f" !(e.name in {list(_TORCH_ENV)}) && {_no_prefix('e.name', RENDEZVOUS_PREFIXES['torch'])})",
    f"{', '.join(_TORCH_ENV)} and PET_* are set by the operator; remove them from env or write rendezvous: none",
)
_TORCH_IS_BUILTIN = Rule(
    f"!({has_text('self.builtin')}) || self.rendezvous == 'torch'",
    "the builtin trainers meet by torch; remove rendezvous, or write torch",
)


class Trainer(
    Model,
    json_schema_extra=cel(
        _ONE_TRAINER,
        _PARAMETERS_ARE_BUILTIN,
        _COMMAND_IS_IMAGE,
        _STATUS_ENV_IS_OURS,
        _RENDEZVOUS_ENV_IS_OURS,
        _TORCH_IS_BUILTIN,
    ),
):
    """What runs. Immutable once the first attempt has started, except numNodes and resourcesPerNode while suspended."""

    builtin: Annotated[Builtin, Supported(("", *SUPPORTED_BUILTINS))] = ""
    """The name of a bundled trainer. Supported now: bert-pretraining, causal-lm, image-classification,
    question-answering, recommendation, text-classification, token-classification."""
    parameters: FreeForm = {}
    """The builtin trainer's settings, checked against its published JSON schema before any pod starts."""
    image: Annotated[str, Field(max_length=1024)] = ""
    """The image of your own trainer."""
    command: Annotated[list[str], Field(max_length=64)] = []
    """The command of your own trainer; the image's entrypoint if empty."""
    args: Annotated[list[str], Field(max_length=256)] = []
    """The arguments of your own trainer."""
    env: Env = []
    """Environment variables. The ones that the operator sets for rendezvous and status are refused."""
    rendezvous: Literal["torch", "tensorflow", "paddle", "none"] = "torch"
    """Which variables tell the nodes of each other: torch (torchrun's and env://), tensorflow (TF_CONFIG), paddle
    (PADDLE_*), or none."""
    num_nodes: Annotated[int, Field(ge=1, le=1024)] = 1
    """The number of pods that train together."""
    num_proc_per_node: AutoOrCount = "auto"
    """Processes in each pod; auto is the number of GPUs asked for, else 1."""
    resources_per_node: Resources = Resources()
    """Requests and limits of each pod."""
    shared_memory: ShareOrQuantity = "50%"
    """The size of /dev/shm: a share of the memory limit, or a quantity; 0 turns it off."""
