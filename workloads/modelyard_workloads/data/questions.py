"""Questions about texts, from SQuAD's JSON (1.1 and 2.0), JSON lines or Parquet, as encoded examples. Imports no torch.

JSON lines and Parquet have SQuAD's fields in each row: `question`, `context` and `answers`, an object with the lists
`text` and `answer_start`. A question without an answer has empty lists.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from modelyard_workloads.data.corpus import is_held_out
from modelyard_workloads.data.labelled_text import HELD_OUT, TRAIN, ExampleWriter, named_parts
from modelyard_workloads.data.records import RowPolicy, Rows
from modelyard_workloads.data.sources import Source, SourceFile
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.text import QuestionAnsweringParameters

TEXTS = "held_out.jsonl"
SPAN_BASE = 1 << 16  # a span of tokens as one number: first * SPAN_BASE + last
_TABLES = (".jsonl", ".jsonl.gz", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Question:
    """A question, the text that has the answer, and the answers (their texts and first characters); none: it has no
    answer.
    """

    question: str
    context: str
    answers: list[tuple[str, int]]


class Questions:
    """The questions of a source."""

    def __init__(self, source: Source, parameters: QuestionAnsweringParameters) -> None:
        self.files = source.select((".json", *_TABLES))
        self._parameters = parameters

    def texts(self) -> Iterator[str]:
        """The texts to train on, for a tokenizer."""
        for question in self._part(held_out=False):
            yield f"{question.question}\n{question.context}"

    def write(self, tokenizer: Tokenizer, directory: Path) -> None:
        """Encode both parts. Raises DataError when nothing is left to train on or to evaluate with."""
        windows = reading_windows(tokenizer, self._parameters.sequence_length, self._parameters.stride)
        with (directory / TEXTS).open("w", encoding="utf-8") as texts:
            for part, held_out in ((TRAIN, False), (HELD_OUT, True)):
                writer = ExampleWriter()
                count = 0
                for count, question in enumerate(self._part(held_out=held_out), start=1):
                    for window in read(windows, question.question, question.context):
                        _add(writer, window, question, count - 1)
                    if held_out:
                        answers = [text for text, _ in question.answers]
                        texts.write(json.dumps([question.context, answers]) + "\n")
                if not count:
                    doing = "evaluate with" if held_out else "train on"
                    message = f"no question is left to {doing}; give more, or change evaluationFraction"
                    raise DataError(f"dataset.uri: {message}")
                writer.write(directory, part)

    def _part(self, *, held_out: bool) -> Iterator[Question]:
        train, evaluation = named_parts(self.files)
        if evaluation:
            yield from self._questions(evaluation if held_out else train)
            return
        for question in self._questions(train):
            # by the text, so that no text is in both parts
            if is_held_out(question.context, self._parameters.evaluation_fraction) == held_out:
                yield question

    def _questions(self, files: Sequence[SourceFile]) -> Iterator[Question]:
        policy = RowPolicy.of(self._parameters)
        for file in files:
            found = _table(file, policy) if file.relative.lower().endswith(_TABLES) else _squad(file)
            for place, question, context, answers in found:
                problem = _problem(question, context, answers)
                if problem:
                    policy.bad(place, problem)
                else:
                    yield Question(str(question), str(context), answers)


_Found = tuple[str, Any, Any, list[tuple[Any, Any]]]


def _table(file: SourceFile, policy: RowPolicy) -> Iterator[_Found]:
    columns = [Column("question"), Column("context"), Column("answers", object)]
    for row in Rows([file], columns, policy):
        answers = row.values["answers"]
        if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
            policy.bad(row.place, "answers must be an object with the lists text and answer_start")
            continue
        pairs = list(zip(answers["text"], answers["answer_start"], strict=False))
        yield row.place, row.values["question"], row.values["context"], pairs


def _squad(file: SourceFile) -> Iterator[_Found]:
    with file.open() as stream:
        try:
            document = json.loads(stream.read())
            for article in document["data"]:
                for paragraph in article["paragraphs"]:
                    for entry in paragraph["qas"]:
                        answers = [] if entry.get("is_impossible") else entry["answers"]
                        pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
                        place = f"{file.address}, question {entry.get('id', entry['question'])!r}"
                        yield place, entry["question"], paragraph["context"], pairs
        except (ValueError, KeyError, TypeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise DataError(f"{file.address}: is no SQuAD JSON (data, paragraphs, qas, answers): {said}") from None


def _problem(question: object, context: object, answers: Sequence[tuple[object, object]]) -> str:
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, str) or not value.strip():
            return f"{name} must be a text that is not empty"
    assert isinstance(context, str)
    for text, start in answers:
        if not isinstance(text, str) or not isinstance(start, int) or not text:
            return f"an answer must have a text and a whole number as answer_start, got {text!r} and {start!r}"
        if context[start : start + len(text)] != text:
            found = context[start : start + len(text)]
            return f"the answer {text!r} is not at answer_start {start}; there is {found!r}"
    return ""


def reading_windows(tokenizer: Tokenizer, length: int, stride: int) -> tuple[Tokenizer, Tokenizer]:
    """Two copies of a tokenizer: one cuts questions that would leave no room for the text; one reads a question and a
    long text in windows of `length` tokens, `stride` of which overlap.
    """
    questions, pairs = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    questions.enable_truncation(max(1, length - stride - 4 - length // 4))
    pairs.enable_truncation(length, stride=stride, strategy="only_second")
    return questions, pairs


def read(tokenizers: tuple[Tokenizer, Tokenizer], question: str, context: str) -> list[Encoding]:
    """The windows of a question and its text."""
    questions, pairs = tokenizers
    asked = questions.encode(question, add_special_tokens=False)
    if asked.overflowing:
        question = question[: asked.offsets[-1][1]]
    encoding = pairs.encode(question, context)
    return [encoding, *encoding.overflowing]


def text_tokens(window: Encoding) -> list[int]:
    """The places of the text's tokens in a window."""
    return [place for place, sequence in enumerate(window.sequence_ids) if sequence == 1]


def _add(writer: ExampleWriter, window: Encoding, question: Question, number: int) -> None:
    """A window as a row; where it has no answer, the answer is the first token."""
    span = 0
    places = text_tokens(window)
    if question.answers and places:
        text, begins = question.answers[0]
        first = [p for p in places if window.offsets[p][0] <= begins < window.offsets[p][1]]
        last = [p for p in places if window.offsets[p][0] < begins + len(text) <= window.offsets[p][1]]
        if first and last:
            span = first[0] * SPAN_BASE + last[-1]
    inside = set(places)
    offsets = [o if p in inside else (-1, -1) for p, o in enumerate(window.offsets)]
    begin, end = ([offset[side] for offset in offsets] for side in (0, 1))
    writer.add(window.ids, window.type_ids, span=span, question=number, begin=begin, end=end)


def normalised(answer: str) -> str:
    """An answer as SQuAD compares it: lower case, no punctuation, no articles, single blanks."""
    text = "".join(c for c in answer.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 or 0; without truths the right answer is none."""
    return max(float(normalised(answer) == normalised(truth)) for truth in truths or [""])


def overlap_f1(answer: str, truths: Sequence[str]) -> float:
    """The best F1 of the words of the answer against those of a truth."""
    return max(_f1(normalised(answer).split(), normalised(truth).split()) for truth in truths or [""])


def _f1(answer: list[str], truth: list[str]) -> float:
    if not answer or not truth:
        return float(answer == truth)
    common = sum((Counter(answer) & Counter(truth)).values())
    return 2 * common / (len(answer) + len(truth))
