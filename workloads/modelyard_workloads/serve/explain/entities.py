"""token-classification: what each token contributed to the logit of the clearest entity's first tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.entities import entities
from modelyard_workloads.models.bert import BertTagger, PackedRows
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.explain.texts import Question, TokenAttribution
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.bert_inference import load_network, texts_of
from modelyard_workloads.tasks.bert_spans import Place, merged, token_logits, windowed, windows_of

NOT_FOUND = "no entity; nearest "


class EntityExplainer:
    """Explains, of all entities in a text, the one whose first tag is the most probable; where there is none, the token
    that came nearest to one.
    """

    def __init__(self, network: BertTagger, tokenizer: Tokenizer, labels: Sequence[str], length: int) -> None:
        self._network = network.eval().requires_grad_(False)
        self._labels = labels
        self._windowed = windowed(tokenizer, length, pairs=False)
        self._tokens = TokenAttribution(network.encoder, tokenizer)

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{text: BYTES [B]} -> attributions (tokens of the window that the entity was found in,)"""
        text = texts_of(arrays["text"][row : row + 1])[0]
        windows = windows_of(self._windowed.encode(text))
        place, end, tag, found = self._clearest(windows)

        def logit(rows: PackedRows, embedded: Tensor) -> Tensor:
            logits: Tensor = self._network(rows, embedded)
            return logits[rows.first + place.index, tag]

        kind = self._labels[tag].partition("-")[2]
        target = f"{'' if found else NOT_FOUND}{kind}: {text[place.start : end]}"
        question = Question(encoding=windows[place.window], target=target, logit=logit, inputs=["text"])
        return self._tokens.explain(question, effort)

    @torch.no_grad()
    def _clearest(self, windows: Sequence[Encoding]) -> tuple[Place, int, int, bool]:
        """The first token of an entity, the end of its last one, the tag's number, and whether the model took it."""
        pairs = list(zip(windows, token_logits(self._network, windows), strict=True))
        places = [place for place in merged(pairs) if not place.continues]
        chances = [torch.from_numpy(place.logits).softmax(dim=0) for place in places]
        tags = [int(chance.argmax()) for chance in chances]
        found = list(entities([self._labels[tag] for tag in tags]))
        if found:
            _, first, last = max(found, key=lambda entity: float(chances[entity[1]].max()))
            return places[first], places[last].end, tags[first], True
        begins = [number for number, label in enumerate(self._labels) if label.startswith("B-")]
        nearest = torch.stack(chances)[:, begins]
        place, tag = divmod(int(nearest.argmax()), len(begins))
        return places[place], places[place].end, begins[tag], False


def build(artifact: Artifact) -> EntityExplainer:
    """Raises DataError."""
    network, checkpoint, tokenizer = load_network(artifact.path, "BertForTokenClassification", BertTagger)
    return EntityExplainer(network, tokenizer, checkpoint.labels, int(artifact.manifest.preprocess["length"]))
