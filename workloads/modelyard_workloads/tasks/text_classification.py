"""Text classification: a class for each text or pair of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelyard_workloads.artifact import Description
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.classified_text import LABELS, ClassifiedTexts
from modelyard_workloads.data.labelled_text import ExampleBatch
from modelyard_workloads.data.sources import Source
from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.models.bert import BertClassifier, BertConfig
from modelyard_workloads.models.bert_huggingface import WEIGHTS, Head
from modelyard_workloads.models.bert_private import PrivateBertClassifier
from modelyard_workloads.parameters.text import TextClassificationParameters
from modelyard_workloads.per_sample import too_large
from modelyard_workloads.tasks.base import Objective
from modelyard_workloads.tasks.bert_answers import load_classifier
from modelyard_workloads.tasks.bert_inference import golden_answers
from modelyard_workloads.tasks.bert_start import architecture_of, write_model
from modelyard_workloads.tasks.bert_tuning import BertTuningTask

_GOLDEN_SAMPLES = 4
_MADE_UP = ("one text", "another text", "a third one, which is longer", "what is this?")


class TextClassificationTask(BertTuningTask):
    """The Task of `text-classification`."""

    objective = Objective(metric="accuracy", higher_is_better=True)
    head: ClassVar[Head] = "BertForSequenceClassification"
    target: ClassVar[str] = "label"
    estimated_head: ClassVar[Literal["rows", "tokens"]] = "rows"
    parameters: TextClassificationParameters

    def __init__(self, config: TrainingConfig) -> None:
        """Raises ConfigError where privacy asks for what the parameters do not give."""
        super().__init__(config)
        self._private = config.private is not None
        if self._private and not config.model.uri and not self.parameters.tokenizer:
            message = "a tokenizer trained on private texts publishes their words; name one, or begin with a model.uri"
            raise ConfigError([Issue("parameters.tokenizer", message)])

    def labelled_texts(self, source: Source) -> ClassifiedTexts:
        """The rows of tables."""
        return ClassifiedTexts(source, self.parameters)

    @property
    def labels(self) -> list[str]:
        """The classes, in the order in which the training data has them first."""
        found: list[str] = json.loads((self.directory / LABELS).read_bytes())
        return found

    @property
    def classes(self) -> int:
        """One for each label."""
        return len(self.labels)

    def network(self, config: BertConfig) -> BertClassifier:
        """The encoder and a linear layer on the first token's vector. Raises ConfigError where privacy takes more
        memory than there is.
        """
        if not self._private:
            return BertClassifier(config, self.classes)
        model = PrivateBertClassifier(config, self.classes)
        message = too_large(
            sum(parameter.numel() for parameter in model.parameters()),
            batch_size=self.parameters.batch_size,
            accumulation_steps=self.parameters.accumulation_steps,
            gradient_for="weight",
            instead="use a smaller architecture",
        )
        if message:
            raise ConfigError([Issue("parameters.batchSize", message)])
        return model

    def loss(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """Mean cross-entropy of the global batch."""
        smoothing = self.parameters.label_smoothing
        logits = model(batch.rows).float()
        total = F.cross_entropy(logits, batch.targets, label_smoothing=smoothing, reduction="sum")
        return total / batch.total * self.shard.world_size

    def measure(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """[summed cross-entropy] and of each class how often it is, is predicted, and is predicted rightly."""
        logits = model(batch.rows).float()
        classes = logits.shape[1]
        predicted, targets = logits.argmax(dim=1), batch.targets
        right = targets[predicted == targets]
        counts = [torch.bincount(values, minlength=classes) for values in (targets, predicted, right)]
        loss = F.cross_entropy(logits, targets, reduction="sum")
        return torch.cat([loss[None], *counts]).double().cpu()

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Accuracy beside that of always guessing the most frequent class; the mean of the classes' F1 (of those that
        occur); mean cross-entropy.
        """
        loss, counts = sums[0], sums[1:].view(3, -1)
        actual, predicted, right = counts
        samples = actual.sum()
        f1 = 2 * right / (actual + predicted).clamp_min(1)
        return {
            "accuracy": float(right.sum() / samples),
            "majorityAccuracy": float(actual.max() / samples),
            "macroF1": float(f1[(actual + predicted) > 0].mean()),
            "evaluationLoss": float(loss / samples),
        }

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """The files are those of Hugging Face; `preprocess.length` is where longer texts are cut."""
        labels, length = self.labels, self.parameters.sequence_length
        write_model(directory, self.bert, self.head, weights, self.tokenizer, labels)
        served = load_classifier(directory, length, pairs=bool(self.parameters.second_text_column))
        # Golden answers are published: with privacy they must not be those of real texts.
        texts = list(_MADE_UP) if self._private else self.sample_texts(_GOLDEN_SAMPLES)
        golden = golden_answers(served, {spec.name: texts for spec in served.inputs})
        return Description(
            task="text-classification",
            architecture=architecture_of(self.bert, self.head),
            weights=[WEIGHTS],
            preprocess={"length": length, "pairs": bool(self.parameters.second_text_column)},
            labels=labels,
            inputs=list(served.inputs),
            outputs=list(served.outputs),
            golden=[golden],
        )


def build_task(config: TrainingConfig) -> TextClassificationTask:
    """The task of a configuration."""
    return TextClassificationTask(config)
