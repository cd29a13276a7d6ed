"""What the data plane needs of a model, and which class provides it for a task.

torch is imported only when a model is built, on the inference thread: the port answers before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.tensors import Array, TensorSpec

Decoder = Callable[[bytes], Array]
"""One element's bytes to its numbers, without the batch dimension. Raises InvalidInput; runs on a thread of its own."""


class Runtime(Protocol):
    """A model: arrays in, arrays out; the first dimension of all of them is the row, rows are independent."""

    @property
    def task(self) -> str:
        """Name of the training task, as in the artifact."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """What must be given."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """What is given back."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes; empty when the task has none."""

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Refuse values that have the right shape and datatype and still make no sense. Raises InvalidInput.

        Before the request can share a batch; on the event loop, or on another thread where there is much text.
        """

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """One batch. Runs on the inference thread."""


@runtime_checkable
class ReadsFiles(Protocol):
    """A runtime some of whose inputs may come as files instead of numbers, pictures for instance."""

    @property
    def decoders(self) -> Mapping[str, Decoder]:
        """How an element is read that comes as BYTES, by input."""


@runtime_checkable
class AnswersDocuments(Protocol):
    """A runtime some of whose outputs of BYTES are JSON: a list of entities, for instance."""

    @property
    def documents(self) -> frozenset[str]:
        """The names of those outputs. Protocols of plain JSON give what the text says, tensors the text."""


@runtime_checkable
class ReadsTokens(Protocol):
    """A runtime that reads texts by a tokenizer."""

    def count_tokens(self, texts: Sequence[str]) -> int:
        """What the model reads of these texts, special tokens too."""

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that these tokens are read from. Raises InvalidInput where there is none."""


class Explains(Protocol):
    """Whatever computes explanations, away from the inference thread."""

    async def explain(self, arrays: Mapping[str, Array], deadline: float) -> list[Explanation]:
        """One for each row of inputs that passed the checks; `deadline` of time.monotonic. Raises the errors of
        errors.py.
        """

    def close(self) -> None:
        """The server ends."""


GENERATIVE = frozenset({"causal-lm"})
"""Tasks whose models answer a token at a time: they get an engine (see generation/) instead of a batcher."""


def build_runtime(artifact: Artifact) -> Runtime:
    """The runtime for the artifact's task. Raises LoadFailure for a task that this server does not know."""
    task = artifact.manifest.task
    builder = _BUILDERS.get(task)
    if builder is None:
        raise LoadFailure(
            "ModelLoadFailed",
            f"task '{task}' cannot be served; known are {', '.join(sorted({*_BUILDERS, *GENERATIVE}))}",
        )
    for spec in (*artifact.manifest.inputs, *artifact.manifest.outputs):
        if not spec.shape or spec.shape[0] != -1:
            raise LoadFailure(
                "ModelLoadFailed", f"tensor '{spec.name}' has no batch dimension: its shape must begin with -1"
            )
    return builder(artifact)


def _image_classification(artifact: Artifact) -> Runtime:
    from modelyard_workloads.serve.image_classification import ImageClassification

    return ImageClassification(artifact)


def _recommendation(artifact: Artifact) -> Runtime:
    from modelyard_workloads.serve.recommendation import Recommendation

    return Recommendation(artifact)


def _text(artifact: Artifact) -> Runtime:
    from modelyard_workloads.serve.text import build_text_runtime

    return build_text_runtime(artifact)


_BUILDERS: dict[str, Callable[[Artifact], Runtime]] = {
    "bert-pretraining": _text,
    "image-classification": _image_classification,
    "question-answering": _text,
    "recommendation": _recommendation,
    "text-classification": _text,
    "token-classification": _text,
}
