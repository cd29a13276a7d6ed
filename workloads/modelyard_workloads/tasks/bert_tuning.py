"""What the tasks share that adapt BERT to labelled texts: preparation, initial weights, evaluation."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.labelled_text import (
    HELD_OUT,
    TRAIN,
    ExampleBatch,
    ExampleBatches,
    Examples,
    example_batch,
    open_examples,
)
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.prepared import share_directory
from modelyard_workloads.data.sources import DATASET, Source, SourceFile, open_source
from modelyard_workloads.data.wordpiece import TOKENIZER, parse_tokenizer, train_wordpiece
from modelyard_workloads.estimates.demand import Demand
from modelyard_workloads.estimates.transformers import Arithmetic, encoder_demand
from modelyard_workloads.models.bert import BertConfig
from modelyard_workloads.models.bert_huggingface import BertCheckpoint, Head, load_initial
from modelyard_workloads.parameters.text import FineTuningParameters
from modelyard_workloads.tasks.bert_inference import grouped_by_length
from modelyard_workloads.tasks.bert_start import bert_config_for, check_given, given_tokenizer, open_initial

_FORMAT = 1  # of the prepared data; another number where another content would come of the same rows


class LabelledTexts(Protocol):
    """The rows of a data set of one kind."""

    @property
    def files(self) -> Sequence[SourceFile]:
        """The files that are read."""

    def texts(self) -> Iterator[str]:
        """The texts to train on, for a tokenizer."""

    def write(self, tokenizer: Tokenizer, directory: Path) -> None:
        """Encode both parts into a directory. Raises DataError."""


class BertTuningTask:
    """Base of the Tasks; see `tasks.base.Task` for the order of calls."""

    strict: Literal[True] = True

    head: ClassVar[Head]
    estimated_head: ClassVar[Literal["rows", "tokens"]] = "tokens"
    target: ClassVar[str]

    def __init__(self, config: TrainingConfig) -> None:
        """Raises ConfigError where parameters and model.uri contradict each other."""
        assert isinstance(config.parameters, FineTuningParameters)
        check_given(config.parameters, config.model.uri)
        self.parameters = config.parameters
        self._config = config
        self.shard: Shard
        self.device: torch.device
        self.directory: Path  # of the prepared data
        self.tokenizer: Tokenizer
        self.train: Examples
        self.held_out: Examples
        self.bert: BertConfig
        self._initial: BertCheckpoint | None

    @abstractmethod
    def labelled_texts(self, source: Source) -> LabelledTexts:
        """The data set's rows."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """How many numbers the head makes."""

    @abstractmethod
    def network(self, config: BertConfig) -> nn.Module:
        """The encoder and the task's head."""

    def build_data(self, shard: Shard, device: torch.device) -> ExampleBatches:
        """Rank 0 encodes all texts once; a batch is cut out of the mapped file."""
        self.shard, self.device = shard, device
        self._initial = open_initial(self._config.model.uri)
        preparation = _Preparation(self, self._config.dataset.uri, self._initial)
        self.directory = share_directory(self._config.output.path / "cache", preparation.name, preparation.make)
        path = self.directory / TOKENIZER
        self.tokenizer = parse_tokenizer(path.read_bytes(), str(path))
        self.train, self.held_out = (open_examples(self.directory, part) for part in (TRAIN, HELD_OUT))
        size, seed = self.parameters.batch_size, self.parameters.seed
        return ExampleBatches(self.train, self.target, batch_size=size, seed=seed, shard=shard, device=device)

    def demand(self) -> Demand:
        """See `tasks.base.Estimated`."""
        parameters = self.parameters
        return encoder_demand(
            bert_config_for(parameters, self._initial, self.tokenizer),
            self._mean_length,
            parameters,
            Arithmetic.of(parameters, self.device),
            head=self.estimated_head,
            classes=self.classes,
            longest=float(np.diff(self.train.starts).max()),
            private=self._config.private is not None,
        )

    def work_per_step(self) -> dict[str, float]:
        """Tokens, and floating-point operations of the matrix products of the layers, as in pretraining."""
        tokens = self.parameters.batch_size * self._mean_length
        width, inner = self.bert.width, self.bert.inner
        return {"tokens": tokens, "flops": 6.0 * tokens * self.bert.layers * (4 * width**2 + 2 * width * inner)}

    def build_model(self) -> nn.Module:
        """The head is new unless the initial weights have one of the same classes."""
        self.bert = bert_config_for(self.parameters, self._initial, self.tokenizer)
        model = self.network(self.bert)
        if self._initial is not None:
            load_initial(model, self._initial, self.head)
        return model

    @property
    def _mean_length(self) -> float:
        return len(self.train.tokens) / len(self.train)

    def evaluation(self) -> Iterator[ExampleBatch]:
        """This rank's share of the held-out rows, rows of about the same length together."""
        mine = self.shard.stride(len(self.held_out)).tolist()
        lengths = np.diff(self.held_out.starts).tolist()
        for group in grouped_by_length(lengths, mine):
            yield example_batch(self.held_out, self.target, group, len(group), self.device)

    def sample_texts(self, count: int) -> list[str]:
        """Short texts made of the beginnings of held-out rows, for golden answers."""
        starts, count = self.held_out.starts, min(count, len(self.held_out))
        rows = [self.held_out.tokens[starts[i] : min(starts[i + 1], starts[i] + 32)] for i in range(count)]
        return [self.tokenizer.decode(row.tolist()) or "text" for row in rows]


class _Preparation:
    """From labelled texts to encoded examples; on rank 0."""

    def __init__(self, task: BertTuningTask, uri: str, initial: BertCheckpoint | None) -> None:
        self._task = task
        self._uri = uri
        self._initial = initial

    def name(self) -> str:
        """Another one when the rows, the tokenizer or what is done with them is another."""
        parameters = self._task.parameters
        self._texts = self._task.labelled_texts(open_source(self._uri, DATASET))
        self._tokenizer = given_tokenizer(parameters, self._initial)
        ignored = set(type(parameters).model_fields) - _decisive(parameters)
        decisive: list[Any] = [_FORMAT, type(self._task).__name__, parameters.model_dump(mode="json", exclude=ignored)]
        decisive += [content_of(file) for file in self._texts.files]
        decisive.append(self._tokenizer.to_str() if self._tokenizer else "")
        return f"bert-examples-{hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:32]}"

    def make(self, directory: Path) -> None:
        """Train a tokenizer unless one is given, then encode."""
        parameters, tokenizer = self._task.parameters, self._tokenizer
        if tokenizer is None:
            size = parameters.vocabulary_size
            tokenizer = train_wordpiece(self._texts.texts, size, lowercase=parameters.lowercase)
        (directory / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        self._texts.write(tokenizer, directory)


def _decisive(parameters: FineTuningParameters) -> set[str]:
    """The parameters that change the prepared data."""
    own = set(type(parameters).model_fields) - set(FineTuningParameters.model_fields)
    return own | {
        "on_bad_row",
        "max_bad_rows",
        "sequence_length",
        "vocabulary_size",
        "lowercase",
        "evaluation_fraction",
    }


def content_of(file: SourceFile) -> str:
    """What identifies a file's content: its hash where it is on this machine, what its store says of it else."""
    if not file.is_local:
        return f"{file.address} {file.size} {file.version}"
    digest = hashlib.sha256(file.relative.encode())
    with file.open() as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
