"""Question answering: where in a text the answer to a question is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from modelyard_workloads.artifact import Description
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.data.labelled_text import ExampleBatch, example_batch
from modelyard_workloads.data.questions import SPAN_BASE, TEXTS, Questions, exact_match, overlap_f1
from modelyard_workloads.data.sources import Source
from modelyard_workloads.models.bert import BertConfig, BertTagger
from modelyard_workloads.models.bert_huggingface import WEIGHTS, Head
from modelyard_workloads.parameters.text import QuestionAnsweringParameters
from modelyard_workloads.tasks.base import Objective
from modelyard_workloads.tasks.bert_inference import golden_answers
from modelyard_workloads.tasks.bert_questions import Window, best_answer, load_answerer
from modelyard_workloads.tasks.bert_start import architecture_of, write_model
from modelyard_workloads.tasks.bert_tuning import BertTuningTask

_QUESTIONS_AT_ONCE = 16
_GOLDEN_SAMPLES = 3


class QuestionAnsweringTask(BertTuningTask):
    """The Task of `question-answering`. A row is a window of a text with its question."""

    objective = Objective(metric="f1", higher_is_better=True)
    head: ClassVar[Head] = "BertForQuestionAnswering"
    target: ClassVar[str] = "span"
    parameters: QuestionAnsweringParameters

    def labelled_texts(self, source: Source) -> Questions:
        """SQuAD's JSON and tables."""
        return Questions(source, self.parameters)

    @property
    def classes(self) -> int:
        """How well an answer begins at a token, and how well it ends there."""
        return 2

    def network(self, config: BertConfig) -> BertTagger:
        """The encoder, and for every token how well the answer begins and ends there."""
        return BertTagger(config, self.classes)

    def loss(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """The mean of the cross-entropies of beginning and end, over the windows of the global batch."""
        logits = pad_sequence(
            list(torch.split(model(batch.rows).float(), list(batch.rows.lengths))),
            batch_first=True,
            padding_value=-torch.inf,
        )  # (B, L, 2)
        first, last = batch.targets // SPAN_BASE, batch.targets % SPAN_BASE
        total = sum(F.cross_entropy(logits[..., side], t, reduction="sum") for side, t in enumerate((first, last)))
        return torch.as_tensor(total) / 2 / batch.total * self.shard.world_size

    def evaluation(self) -> Iterator[ExampleBatch]:
        """All windows of a question are in one batch."""
        numbers = np.asarray(self.held_out.targets["question"])
        mine = self.shard.stride(int(numbers[-1]) + 1)
        for questions in torch.split(mine, _QUESTIONS_AT_ONCE):
            rows = [i for q in questions.tolist() for i in range(*np.searchsorted(numbers, [q, q + 1]).tolist())]
            yield example_batch(self.held_out, self.target, rows, len(rows), self.device)

    def measure(self, model: nn.Module, batch: ExampleBatch) -> Tensor:
        """[windows, summed loss, questions, exact matches, summed F1]"""
        loss = self.loss(model, batch) / self.shard.world_size * batch.total
        logits = model(batch.rows).float().cpu().numpy()
        windows: dict[int, list[Window]] = {}
        begin = 0
        for index, length in zip(batch.indices, batch.rows.lengths, strict=True):
            window = self._window(index, logits[begin : begin + length])
            windows.setdefault(int(self.held_out.targets["question"][index]), []).append(window)
            begin += length
        scores = [0.0, 0.0]
        for number, found in windows.items():
            context, truths = self._texts[number]
            answer = best_answer(found, self.parameters.answer_length, may_be_none=self._some_have_none)
            text = context[answer.start : answer.end]
            scores = [scores[0] + exact_match(text, truths), scores[1] + overlap_f1(text, truths)]
        return torch.tensor([len(batch.indices), float(loss), len(windows), *scores], dtype=torch.float64)

    def _window(self, index: int, logits: NDArray[np.float32]) -> Window:
        span = slice(self.held_out.starts[index], self.held_out.starts[index + 1])
        begins, ends = (np.asarray(self.held_out.targets[name][span]) for name in ("begin", "end"))
        return Window(logits=logits, begins=begins, ends=ends)

    @cached_property
    def _texts(self) -> Sequence[tuple[str, list[str]]]:
        """The held-out texts and their answers."""
        lines = (self.directory / TEXTS).read_text(encoding="utf-8").splitlines()
        return [(context, answers) for context, answers in map(json.loads, lines)]

    @cached_property
    def _some_have_none(self) -> bool:
        """Does the evaluation have questions without an answer?"""
        return any(not answers for _, answers in self._texts)

    def summarise(self, sums: Tensor) -> dict[str, float]:
        """Exact match and F1 as SQuAD defines them, shares of 1."""
        windows, loss, questions, exact, f1 = sums.tolist()
        return {"exactMatch": exact / questions, "f1": f1 / questions, "evaluationLoss": loss / windows}

    def describe(self, directory: Path, weights: dict[str, Tensor]) -> Description:
        """The files are those of Hugging Face; `preprocess` is how texts are read."""
        write_model(directory, self.bert, self.head, weights, self.tokenizer)
        preprocess = {
            "length": self.parameters.sequence_length,
            "stride": self.parameters.stride,
            "answerLength": self.parameters.answer_length,
            "mayBeNone": self._some_have_none,
        }
        served = load_answerer(directory, preprocess)
        texts = [context[:200] for context, _ in self._texts[:_GOLDEN_SAMPLES]]
        questions = ["What is this?"] * len(texts)
        return Description(
            task="question-answering",
            architecture=architecture_of(self.bert, self.head),
            weights=[WEIGHTS],
            preprocess=preprocess,
            inputs=list(served.inputs),
            outputs=list(served.outputs),
            golden=[golden_answers(served, {"question": questions, "context": texts})],
        )


def build_task(config: TrainingConfig) -> QuestionAnsweringTask:
    """The task of a configuration."""
    return QuestionAnsweringTask(config)
