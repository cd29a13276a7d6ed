"""The text tasks of BERT: texts in as BYTES, typed answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.errors import InvalidInput, LoadFailure
from modelyard_workloads.serve.tensors import Array, TensorSpec
from modelyard_workloads.tasks.bert_answers import load_classifier
from modelyard_workloads.tasks.bert_inference import RefusedText, ServedText, load_pretrained
from modelyard_workloads.tasks.bert_questions import load_answerer
from modelyard_workloads.tasks.bert_spans import load_tagger

_DOCUMENTS = frozenset({"entities", "masks"})


class TextRuntime:
    """Serves a text model."""

    def __init__(self, task: str, model: ServedText) -> None:
        self.task = task
        self.labels: Sequence[str] = model.labels
        self.inputs = [
            TensorSpec(spec.name, spec.datatype, tuple(spec.shape), b"" if spec.name in model.optional else None)
            for spec in model.inputs
        ]
        self.outputs = [TensorSpec(spec.name, spec.datatype, tuple(spec.shape)) for spec in model.outputs]
        self.documents = _DOCUMENTS & {spec.name for spec in self.outputs}
        self._model = model

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Texts are UTF-8, not empty, and not longer than the model reads; see docs/trainers."""
        try:
            self._model.check(arrays)
        except RefusedText as error:
            raise InvalidInput(str(error)) from None

    def count_tokens(self, texts: Sequence[str]) -> int:
        """What the model reads of these texts, special tokens too."""
        return self._model.reader.count(texts)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that these tokens are read from. Raises InvalidInput where there is none."""
        try:
            return self._model.reader.text_of(tokens)
        except RefusedText as error:
            raise InvalidInput(str(error)) from None

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """One batch; texts of about the same length are computed together."""
        return self._model(arrays)


def build_text_runtime(artifact: Artifact) -> TextRuntime:
    """The runtime of an artifact. Raises LoadFailure when its files do not make the model that it names."""
    manifest = artifact.manifest
    name = manifest.architecture.name
    try:
        match name:
            case "BertForPreTraining" | "BertForMaskedLM":
                return TextRuntime(manifest.task, load_pretrained(artifact.path, name))
            case "BertForSequenceClassification":
                length, pairs = int(manifest.preprocess["length"]), bool(manifest.preprocess["pairs"])
                return TextRuntime(manifest.task, load_classifier(artifact.path, length, pairs=pairs))
            case "BertForTokenClassification":
                return TextRuntime(manifest.task, load_tagger(artifact.path, int(manifest.preprocess["length"])))
            case "BertForQuestionAnswering":
                return TextRuntime(manifest.task, load_answerer(artifact.path, manifest.preprocess))
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise LoadFailure("ModelLoadFailed", f"{type(error).__name__}: {error}") from None
    raise LoadFailure("ModelLoadFailed", f"the architecture {name!r} is no text model that is known here")
