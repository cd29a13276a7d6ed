"""BERT's models as they are served: texts in, answers out. The same code gives a training's golden answers.

Arrays hold one row for each text: `object` arrays of UTF-8 bytes going in, and floats or bytes coming out. Texts are
computed together with others of about their length, so many tokens at a time; a row's answer does not depend on the
others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from torch import Tensor, nn

from modelyard_workloads.artifact import Golden, TensorSpec, TensorValue
from modelyard_workloads.data.wordpiece import FIRST, MASK, SEPARATOR, UNKNOWN, read_tokenizer, special_id
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.bert import BertConfig, BertPretraining, PackedRows, pack_rows
from modelyard_workloads.models.bert_huggingface import BertCheckpoint, Head, read_checkpoint
from modelyard_workloads.models.uninitialised import Uninitialised

Array = NDArray[Any]
Arrays = Mapping[str, Array]
TOKENS_AT_ONCE = 8192  # in one pass of the network
MAX_TEXT_BYTES = 1 << 16
BEST = 5  # tokens that are named for a mask

Network = TypeVar("Network", bound=nn.Module)


class RefusedText(ValueError):
    """A text that this model cannot answer; the message says why, and what to send instead."""


class ServedText(Protocol):
    """A text model as the server sees it."""

    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    optional: frozenset[str]  # inputs that may be left out: empty texts then
    golden: frozenset[str]  # outputs that a server must reproduce; numbers, which no near tie turns over
    labels: Sequence[str]
    reader: TextReader

    def check(self, arrays: Arrays) -> None:
        """Raises RefusedText."""

    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """One batch: every input, every output."""


def golden_answers(model: ServedText, texts: Mapping[str, Sequence[str]]) -> Golden:
    """What the model answers to these texts, as an artifact records it."""
    answers = model({name: as_bytes(values) for name, values in texts.items()})
    inputs = [TensorValue(name=n, datatype="BYTES", shape=[len(v)], data=list(v)) for n, v in texts.items()]
    outputs = [
        TensorValue(**{**dict(spec), "shape": list(answers[spec.name].shape)}, data=answers[spec.name].tolist())
        for spec in model.outputs
        if spec.name in model.golden
    ]
    return Golden(inputs=inputs, outputs=outputs)


class TextReader:
    """Texts to packed rows, for a model that reads at most `context` tokens."""

    def __init__(self, tokenizer: Tokenizer, context: int) -> None:
        self.context = context
        self._whole = tokenizer
        self._cut = Tokenizer.from_str(tokenizer.to_str())
        self._cut.enable_truncation(context)

    def encode(self, texts: Sequence[str], seconds: Sequence[str] | None = None, *, cut: bool = True) -> list[Encoding]:
        """With special tokens; an empty second text is none. Unless `cut`, rows may be longer than the context."""
        pairs = [(a, b) if b else a for a, b in zip(texts, seconds or [""] * len(texts), strict=True)]
        return (self._cut if cut else self._whole).encode_batch(pairs)

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts, special ones too, as many as are read."""
        return sum(len(encoding.ids) for encoding in self.encode(texts))

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text that these tokens are read from, with or without the special ones around them. Raises RefusedText
        where there is none, so that nothing else is read than what was meant.
        """
        size = self._whole.get_vocab_size(with_added_tokens=True)
        if wrong := [token for token in tokens if not 0 <= token < size]:
            raise RefusedText(f"{wrong[0]} is no token of this model; they are 0 to {size - 1}")
        text = self._whole.decode(list(tokens), skip_special_tokens=False)
        bare = self._whole.encode(text, add_special_tokens=False).ids
        if bare != list(tokens):
            raise RefusedText("this model's tokenizer makes these tokens of no text; send the text itself")
        first, last = special_id(self._whole, FIRST), special_id(self._whole, SEPARATOR)
        if len(bare) > 1 and (bare[0], bare[-1]) == (first, last):
            text = self._whole.decode(bare[1:-1], skip_special_tokens=False)
        return text

    def check(self, name: str, value: bytes) -> str:
        """The text of one element of an input. Raises RefusedText."""
        if len(value) > MAX_TEXT_BYTES:
            raise RefusedText(f"input '{name}': a text has {len(value)} bytes, at most {MAX_TEXT_BYTES} are read")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise RefusedText(f"input '{name}': a text is not UTF-8 (byte {error.start})") from None

    def check_all(self, name: str, values: Array) -> list[str]:
        """Texts none of which is empty. Raises RefusedText."""
        texts = [self.check(name, value) for value in values]
        if not all(text.strip() for text in texts):
            raise RefusedText(f"input '{name}': a text is empty; send at least one word")
        return texts


def texts_of(values: Array) -> list[str]:
    """The elements of a checked input."""
    return [value.decode("utf-8", "replace") for value in values]


def as_bytes(texts: Sequence[str]) -> Array:
    """An array of BYTES."""
    array = np.empty(len(texts), dtype=object)
    array[:] = [text.encode() for text in texts]
    return array


def pack_encodings(encodings: Sequence[Encoding]) -> PackedRows:
    """Packed rows of encoded texts."""
    return pack_rows([np.array(e.ids) for e in encodings], [np.array(e.type_ids) for e in encodings])


def by_length(encodings: Sequence[Encoding]) -> Iterator[list[int]]:
    """Rows of about the same length together; see `grouped_by_length`."""
    return grouped_by_length([len(encoding.ids) for encoding in encodings], range(len(encodings)))


def grouped_by_length(lengths: Sequence[int], indices: Sequence[int]) -> Iterator[list[int]]:
    """The rows in groups of about the same length, as many as TOKENS_AT_ONCE lets (one at least)."""
    group: list[int] = []
    for index in sorted(indices, key=lambda i: lengths[i]):
        if group and (len(group) + 1) * lengths[index] > TOKENS_AT_ONCE:
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def load_network(
    directory: Path, head: Head, build: Callable[[BertConfig, int], Network]
) -> tuple[Network, BertCheckpoint, Tokenizer]:
    """The model of a directory in Hugging Face's layout, with all of its weights, in eval mode. `build` gets the
    configuration and the number of labels. Raises DataError.
    """
    checkpoint = read_checkpoint(directory)
    with Uninitialised():
        network = build(checkpoint.config, len(checkpoint.labels))
    weights = checkpoint.take(list(network.state_dict()), head)
    missing = [name for name in network.state_dict() if name not in weights]
    if missing:
        raise DataError(f"{directory}: the weights of a {head} lack {', '.join(missing[:3])}")
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise DataError(f"{directory}: the weights do not make a {head}: {error}") from None
    return network.eval(), checkpoint, read_tokenizer(directory)


class PretrainedBert:
    """Fills masks, tells whether one text follows another, and embeds texts."""

    inputs: Sequence[TensorSpec] = (
        TensorSpec(name="text", datatype="BYTES", shape=[-1]),
        TensorSpec(name="next_text", datatype="BYTES", shape=[-1]),
    )
    optional = frozenset({"next_text"})
    labels: Sequence[str] = ()
    golden = frozenset({"scores", "next_probability", "embedding"})

    def __init__(self, network: BertPretraining, tokenizer: Tokenizer) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._mask = special_id(tokenizer, MASK)
        self._names = {number: token for token, number in tokenizer.get_vocab(with_added_tokens=True).items()}
        config = network.encoder
        self.reader = TextReader(tokenizer, config.positions.num_embeddings)
        shapes: list[tuple[str, Any, list[int]]] = [
            ("tokens", "BYTES", [-1, BEST]),
            ("scores", "FP32", [-1, BEST]),
            ("filled", "BYTES", [-1]),
            ("masks", "BYTES", [-1]),
            ("embedding", "FP32", [-1, config.tokens.embedding_dim]),
        ]
        if network.next_sentence is not None:
            shapes.append(("next_probability", "FP32", [-1]))
        self.outputs: Sequence[TensorSpec] = [TensorSpec(name=n, datatype=d, shape=s) for n, d, s in shapes]

    def check(self, arrays: Arrays) -> None:
        """Raises RefusedText."""
        texts = self.reader.check_all("text", arrays["text"])
        seconds = [self.reader.check("next_text", value) for value in arrays["next_text"]]
        for encoding in self.reader.encode(texts, seconds, cut=False):
            if len(encoding.ids) > self.reader.context:
                raise RefusedText(
                    f"input 'text': {len(encoding.ids)} tokens with next_text, the model reads {self.reader.context};"
                    " send a shorter text"
                )

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """`tokens` and `scores` are the best for the first [MASK] of a text (nothing and 0 where there is none),
        `filled` is the text with the best for each, `masks` a JSON list for all of them; `next_probability` is 0
        without a next text; `embedding` is the mean over the tokens.
        """
        encodings = self.reader.encode(texts_of(arrays["text"]), texts_of(arrays["next_text"]))
        rows: list[dict[str, Any]] = [{}] * len(encodings)
        for group in by_length(encodings):
            for index, answer in zip(group, self._answer([encodings[i] for i in group]), strict=True):
                rows[index] = answer
        answers: dict[str, Array] = {}
        for spec in self.outputs:
            values = [row[spec.name] for row in rows]
            answers[spec.name] = np.array(values, dtype=object if spec.datatype == "BYTES" else np.float32)
        return answers

    def _answer(self, encodings: Sequence[Encoding]) -> Iterator[dict[str, Any]]:
        rows = pack_encodings(encodings)
        x = self._network.encoder(rows)
        places = torch.eq(rows.tokens, self._mask).nonzero()[:, 0]
        chances = self._network.masked(x[places], self._network.encoder.tokens.weight).softmax(dim=1)
        scores, best = chances.topk(BEST, dim=1)
        follows = torch.zeros(len(encodings))
        if self._network.pooler is not None and self._network.next_sentence is not None:
            follows = self._network.next_sentence(self._network.pooler(x, rows)).softmax(dim=1)[:, 0]
        begin = 0
        for number, (encoding, vectors) in enumerate(zip(encodings, x.split(rows.lengths), strict=True)):
            count = encoding.ids.count(self._mask)
            mine = slice(begin, begin + count)
            begin += count
            answer = self._filled(encoding, scores[mine], best[mine])
            paired = 1 in encoding.type_ids
            answer["next_probability"] = float(follows[number]) if paired else 0.0
            answer["embedding"] = vectors.mean(dim=0).numpy()
            yield answer

    def _filled(self, encoding: Encoding, scores: Tensor, best: Tensor) -> dict[str, Any]:
        named = [[self._names.get(token, UNKNOWN) for token in row] for row in best.tolist()]
        ids = list(encoding.ids)
        for place, row in zip([i for i, token in enumerate(ids) if token == self._mask], best.tolist(), strict=True):
            ids[place] = row[0]
        first_text = [token for token, kind in zip(ids, encoding.type_ids, strict=True) if kind == 0]
        chances = [[float(f"{score:.6g}") for score in row] for row in scores.tolist()]
        masks = [
            [{"token": token, "score": score} for token, score in zip(*pair, strict=True)]
            for pair in zip(named, chances, strict=True)
        ]
        return {
            "tokens": [token.encode() for token in named[0]] if named else [b""] * BEST,
            "scores": scores[0].tolist() if named else [0.0] * BEST,
            "filled": self._tokenizer.decode(first_text).encode(),
            "masks": json.dumps(masks, ensure_ascii=False).encode(),
        }


def load_pretrained(directory: Path, head: Head) -> PretrainedBert:
    """The model of `bert-pretraining`. Raises DataError."""

    def build(config: BertConfig, _labels: int) -> BertPretraining:
        return BertPretraining(config, next_sentence=head == "BertForPreTraining")

    network, _, tokenizer = load_network(directory, head, build)
    return PretrainedBert(network, tokenizer)
