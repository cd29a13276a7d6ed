"""Token classification: entities in texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelyard_workloads.artifact import Description
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.entities import entities
from modelyard_workloads.data.labelled_text import ExampleBatch
from modelyard_workloads.data.sources import Source
from modelyard_workloads.data.tagged_text import LABELS, NO_TARGET, TaggedTexts
from modelyard_workloads.models.bert import BertConfig, BertTagger
from modelyard_workloads.models.bert_huggingface import WEIGHTS, Head
from modelyard_workloads.parameters.text import TokenClassificationParameters
from modelyard_workloads.tasks.base import Objective
from modelyard_workloads.tasks.bert_inference import golden_answers
from modelyard_workloads.tasks.bert_spans import load_tagger
from modelyard_workloads.tasks.bert_start import architecture_of, write_model
from modelyard_workloads.tasks.bert_tuning import BertTuningTask

_GOLDEN_SAMPLES = 4


class TokenClassificationTask(BertTuningTask):
    """The Task of `token-classification`."""

    objective = Objective(metric="f1", higher_is_better=True)
    head: ClassVar[Head] = "BertForTokenClassification"
    target: ClassVar[str] = "tag"
    parameters: TokenClassificationParameters

    def labelled_texts(self, source: Source) -> TaggedTexts:
        """Sentences of CoNLL files and tables."""
        return TaggedTexts(source, self.parameters)

    @property
    def labels(self) -> list[str]:
        """O, and B and I of each type of entity, by name."""
        found: list[str] = json.loads((self.directory / LABELS).read_bytes())
        return found

    @property
    def classes(self) -> int:
        """One for each label."""
        return len(self.labels)

    def network(self, config: BertConfig) -> BertTagger:
        """The encoder and a linear layer on every token's vector."""
        return BertTagger(config, self.classes)

    def loss(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """Mean cross-entropy of all tokens of the global batch that have a tag."""
        total = F.cross_entropy(model(batch.rows).float(), batch.targets, ignore_index=NO_TARGET, reduction="sum")
        return total / batch.total * self.shard.world_size

    def measure(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """[summed cross-entropy, tokens with a tag, words, words tagged rightly], and of each type of entity how many
        there are, are found, and are found rightly.
        """
        logits = model(batch.rows).float()
        loss = F.cross_entropy(logits, batch.targets, ignore_index=NO_TARGET, reduction="sum")
        tagged = (batch.targets != NO_TARGET).sum()
        heads = self.held_out.of_tokens("head", batch.indices).bool()
        predicted, actual = logits.argmax(dim=1).cpu(), batch.targets.cpu()
        right = (predicted == actual)[heads].sum()
        labels = self.labels
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(label[2:] for label in labels[1:]))}
        counts = torch.zeros(3, len(kinds))
        lengths = list(batch.rows.lengths)
        rows = zip(*(torch.split(values, lengths) for values in (heads, actual, predicted)), strict=True)
        for words, truth, guess in rows:
            there, found = (set(entities([labels[i] for i in tags[words].tolist()])) for tags in (truth, guess))
            for row, group in enumerate((there, found, there & found)):
                for kind, _, _ in group:
                    counts[row, kinds[kind]] += 1
        first = torch.stack([loss.cpu(), tagged.cpu(), heads.sum(), right])
        return torch.cat([first.double(), counts.flatten().double()])

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Precision, recall and F1 of whole entities (seqeval's micro average), the share of words tagged rightly."""
        loss, tagged, words, right = sums[:4].tolist()
        there, found, both = sums[4:].view(3, -1).sum(dim=1).tolist()
        return {
            "f1": 2 * both / max(1.0, there + found),
            "precision": both / max(1.0, found),
            "recall": both / max(1.0, there),
            "accuracy": right / words,
            "evaluationLoss": loss / tagged,
        }

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """The files are those of Hugging Face; `preprocess.length` is how many tokens are read at once."""
        labels, length = self.labels, self.parameters.sequence_length
        write_model(directory, self.bert, self.head, weights, self.tokenizer, labels)
        served = load_tagger(directory, length)
        texts = self.sample_texts(_GOLDEN_SAMPLES)
        return Description(
            task="token-classification",
            architecture=architecture_of(self.bert, self.head),
            weights=[WEIGHTS],
            preprocess={"length": length},
            labels=labels,
            inputs=list(served.inputs),
            outputs=list(served.outputs),
            golden=[golden_answers(served, {"text": texts})],
        )


def build_task(config: TrainingConfig) -> TokenClassificationTask:
    """The task of a configuration."""
    return TokenClassificationTask(config)
