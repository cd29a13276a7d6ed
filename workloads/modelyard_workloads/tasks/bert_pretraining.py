"""Pretraining of BERT: masked-language modelling and next-sentence prediction (Devlin et al. 2019)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from modelyard_workloads.artifact import Description
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.documents import Documents, check_parts
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.prepared import share_directory
from modelyard_workloads.data.pretraining_text import (
    PretrainingBatch,
    PretrainingBatches,
    PretrainingRows,
    held_out_batches,
)
from modelyard_workloads.data.sources import DATASET, open_source
from modelyard_workloads.data.token_file import open_tokens, write_tokens
from modelyard_workloads.data.wordpiece import TOKENIZER, parse_tokenizer, train_wordpiece
from modelyard_workloads.estimates.demand import Demand
from modelyard_workloads.estimates.transformers import Arithmetic, encoder_demand
from modelyard_workloads.models.bert import BertConfig, BertPretraining
from modelyard_workloads.models.bert_huggingface import WEIGHTS, BertCheckpoint, Head, load_initial
from modelyard_workloads.parameters.text import BertPretrainingParameters
from modelyard_workloads.tasks.base import Objective
from modelyard_workloads.tasks.bert_inference import golden_answers, load_pretrained
from modelyard_workloads.tasks.bert_start import (
    architecture_of,
    bert_config_for,
    check_given,
    given_tokenizer,
    open_initial,
    write_model,
)

_EVALUATION_BATCH = 64
_GOLDEN_SAMPLES = 3
_FORMAT = 1  # of the prepared data; another number where another content would come of the same text


class BertPretrainingTask:
    """The Task of `bert-pretraining`; see `tasks.base.Task` for the order of calls."""

    strict: Literal[True] = True
    objective = Objective(metric="evaluationLoss", higher_is_better=False)

    def __init__(self, config: TrainingConfig) -> None:
        """Raises ConfigError where parameters and model.uri contradict each other."""
        assert isinstance(config.parameters, BertPretrainingParameters)
        check_given(config.parameters, config.model.uri)
        self._parameters = config.parameters
        self._dataset_uri = config.dataset.uri
        self._model_uri = config.model.uri
        self._cache = config.output.path / "cache"
        self._initial: BertCheckpoint | None
        self._tokenizer: Tokenizer
        self._rows: PretrainingRows
        self._held_out: PretrainingRows
        self._shard: Shard
        self._device: torch.device
        self._config: BertConfig
        self._model: BertPretraining
        self._frequent: int  # the most frequent token: what someone would guess who knows nothing else

    @property
    def _head(self) -> Head:
        return "BertForPreTraining" if self._parameters.next_sentence else "BertForMaskedLM"

    def build_data(self, shard: Shard, device: torch.device) -> PretrainingBatches:
        """Tokens are made once, by rank 0, and kept beside the checkpoints; a batch is drawn from the mapped file."""
        self._shard, self._device = shard, device
        self._initial = open_initial(self._model_uri)
        preparation = _Preparation(self._dataset_uri, self._parameters, self._initial)
        directory = share_directory(self._cache, preparation.name, preparation.make)
        self._tokenizer = parse_tokenizer((directory / TOKENIZER).read_bytes(), str(directory / TOKENIZER))
        train = open_tokens(directory, "train")
        self._frequent = int(np.bincount(train.tokens[: 1 << 24]).argmax())
        self._rows = PretrainingRows(train, self._tokenizer, self._parameters)
        self._held_out = PretrainingRows(open_tokens(directory, "held_out"), self._tokenizer, self._parameters)
        return PretrainingBatches(self._rows, self._parameters, shard, device)

    def demand(self) -> Demand:
        """See `tasks.base.Estimated`."""
        parameters, length = self._parameters, self._rows.mean_length
        return encoder_demand(
            bert_config_for(parameters, self._initial, self._tokenizer),
            length,
            parameters,
            Arithmetic.of(parameters, self._device),
            head="pretraining",
            classes=2 if parameters.next_sentence else 0,
            longest=parameters.sequence_length,
            masked=parameters.mask_probability * length,
        )

    def build_model(self) -> BertPretraining:
        """The encoder with both heads, or with one where next-sentence prediction is off."""
        self._config = bert_config_for(self._parameters, self._initial, self._tokenizer)
        model = BertPretraining(self._config, next_sentence=self._parameters.next_sentence)
        if self._initial is not None:
            load_initial(model, self._initial, self._head)
        self._model = model
        return model

    def work_per_step(self) -> dict[str, float]:
        """Tokens, and floating-point operations of the matrix products: 6 for each weight and token (Kaplan et al.,
        2020, section 2.1; attention itself is not counted); the head of the vocabulary sees the hidden tokens only.
        """
        tokens = self._parameters.batch_size * self._rows.mean_length
        blocks = sum(p.numel() for p in self._model.encoder.blocks.parameters())
        head = sum(p.numel() for p in self._model.masked.parameters()) + self._model.encoder.tokens.weight.numel()
        return {"tokens": tokens, "flops": 6.0 * tokens * (blocks + self._parameters.mask_probability * head)}

    def loss(self, model: nn.Module, batch: PretrainingBatch) -> Tensor:
        """The mean cross-entropy of the hidden tokens plus that of the pairs; the mean over the ranks is that of the
        global batch, whose numbers of both are known everywhere.
        """
        logits = model(batch.rows, batch.masked)
        loss = F.cross_entropy(logits.masked.float(), batch.targets, reduction="sum") / batch.all_targets
        if logits.next_sentence is not None:
            pairs = F.cross_entropy(logits.next_sentence.float(), batch.strangers, reduction="sum")
            loss = loss + pairs / batch.all_rows
        return loss * self._shard.world_size

    def evaluation(self) -> Iterator[PretrainingBatch]:
        """This rank's share of the held-out documents, with the same tokens hidden every time."""
        return held_out_batches(self._held_out, _EVALUATION_BATCH, self._shard, self._device)

    def measure(self, model: nn.Module, batch: PretrainingBatch) -> Tensor:
        """[targets, right, summed cross-entropy, the most frequent token, rows, right, cross-entropy, pairs from
        elsewhere]
        """
        logits = model(batch.rows, batch.masked)
        targets = batch.targets
        guessed = logits.masked.float()
        sums = [
            torch.tensor(len(targets)),
            (guessed.argmax(dim=1) == targets).sum(),
            F.cross_entropy(guessed, targets, reduction="sum"),
            (targets == self._frequent).sum(),
            torch.tensor(len(batch.strangers)),
        ]
        if logits.next_sentence is not None:
            pairs = logits.next_sentence.float()
            sums += [
                (pairs.argmax(dim=1) == batch.strangers).sum(),
                F.cross_entropy(pairs, batch.strangers, reduction="sum"),
                batch.strangers.sum(),
            ]
        return torch.stack([value.double().cpu() for value in sums])

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Accuracies (share of 1) beside those of the simplest guesses: always the most frequent token, always the
        more frequent kind of pair.
        """
        targets, right, loss, frequent, rows, *pairs = sums.tolist()
        metrics = {
            "evaluationLoss": loss / targets,
            "maskedAccuracy": right / targets,
            "mostFrequentTokenAccuracy": frequent / targets,
        }
        if pairs:
            right, loss, strangers = pairs
            metrics["evaluationLoss"] += loss / rows
            metrics["nextSentenceAccuracy"] = right / rows
            metrics["majorityAccuracy"] = max(strangers, rows - strangers) / rows
        return metrics

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """`weights` are those of BertPretraining; the files are those of Hugging Face."""
        write_model(directory, self._config, self._head, weights, self._tokenizer)
        served = load_pretrained(directory, self._head)
        return Description(
            task="bert-pretraining",
            architecture=architecture_of(self._config, self._head),
            weights=[WEIGHTS],
            inputs=list(served.inputs),
            outputs=list(served.outputs),
            golden=[golden_answers(served, self._held_out.examples(self._tokenizer, _GOLDEN_SAMPLES))],
        )


class _Preparation:
    """From documents to token files; on rank 0."""

    def __init__(self, dataset_uri: str, parameters: BertPretrainingParameters, initial: BertCheckpoint | None) -> None:
        self._uri = dataset_uri
        self._parameters = parameters
        self._initial = initial

    def name(self) -> str:
        """Another one when the text, the tokenizer or what is done with them is another."""
        parameters = self._parameters
        self._documents = Documents(open_source(self._uri, DATASET), parameters.text_column, parameters)
        self._tokenizer = given_tokenizer(parameters, self._initial)
        decisive = [_FORMAT, self._documents.identity(), parameters.evaluation_fraction]
        if self._tokenizer is None:
            decisive += [parameters.vocabulary_size, parameters.lowercase]
        else:
            decisive.append(self._tokenizer.to_str())
        return f"bert-tokens-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]}"

    def make(self, directory: Path) -> None:
        """Train a tokenizer on the documents that are not held out, unless one is given; then write all tokens."""
        parameters, documents = self._parameters, self._documents
        fraction = parameters.evaluation_fraction

        def train() -> Iterator[str]:
            return documents.part(fraction, held_out=False)

        tokenizer = self._tokenizer
        if tokenizer is None:
            tokenizer = train_wordpiece(train, parameters.vocabulary_size, lowercase=parameters.lowercase)
        (directory / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        counts = [
            write_tokens(tokenizer, documents.part(fraction, held_out=held_out), directory, part)
            for part, held_out in (("train", False), ("held_out", True))
        ]
        check_parts(counts[0], counts[1], self._uri)


def build_task(config: TrainingConfig) -> BertPretrainingTask:
    """The task of a configuration."""
    return BertPretrainingTask(config)
