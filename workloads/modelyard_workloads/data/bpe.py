"""The tokenizer of a language model: byte-level BPE trained on the data, or one that a model brought along.

Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) has a token for each byte, so every text can be written and
none is unknown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from modelyard_workloads.data.chat import DEFAULT_TEMPLATE, ROLES, ChatTemplate, ChatTemplateError
from modelyard_workloads.exits import DataError

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
END = "<|endoftext|>"
SPECIAL = (END, *(f"<|{role}|>" for role in ROLES))

# What ends a text, under the names that published tokenizers use, when nothing says it.
_ENDS = (END, "</s>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<|im_end|>")


class TextTokenizer:
    """A tokenizer, the token that ends a text, and the template of a conversation."""

    def __init__(self, tokenizer: Tokenizer, *, end: str, begin: str = "", template: str = "") -> None:
        """Raises DataError when the tokenizer has no such token, or the template is wrong."""
        found = tokenizer.token_to_id(end)
        if found is None:
            raise DataError(f"{TOKENIZER} has no token {end!r}, which is to end a text")
        self.tokenizer = tokenizer
        self.end = int(found)
        self._names = {"eos_token": end, "bos_token": begin}
        try:
            self.template = ChatTemplate(template or DEFAULT_TEMPLATE, end_token=end, begin_token=begin)
        except ChatTemplateError as error:
            raise DataError(str(error)) from None

    @property
    def size(self) -> int:
        """One more than the largest token."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Texts as tokens, nothing added at their ends."""
        return [e.ids for e in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def fingerprint(self) -> str:
        """Another one when texts or conversations become other tokens."""
        content = f"{self.tokenizer.to_str()}\0{self.end}\0{self.template.source}"
        return hashlib.sha256(content.encode()).hexdigest()

    def byte_lengths(self) -> npt.NDArray[np.int64]:
        """How many bytes of UTF-8 text each token stands for, (size,); 0 for those that are no text."""
        lengths = np.zeros(self.size, dtype=np.int64)
        special = {token for token, added in self.tokenizer.get_added_tokens_decoder().items() if added.special}
        byte_level = "ByteLevel" in json.dumps(json.loads(self.tokenizer.to_str()).get("decoder"))
        for text, token in self.tokenizer.get_vocab(with_added_tokens=True).items():
            if token in special:
                continue
            if byte_level:  # one letter for each byte
                lengths[token] = len(text)
            elif text.startswith("<0x") and text.endswith(">"):
                lengths[token] = 1
            else:
                lengths[token] = len(text.replace("▁", " ").encode())
        return lengths

    def save(self, directory: Path, *, context: int) -> None:
        """Write the files under the names that transformers reads."""
        self.tokenizer.save(str(directory / TOKENIZER))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            **{name: value for name, value in self._names.items() if value},
        }
        generation = {"eos_token_id": self.end, "max_length": context, "do_sample": False}
        (directory / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (directory / GENERATION_CONFIG).write_text(json.dumps(generation, indent=2, sort_keys=True) + "\n")
        (directory / CHAT_TEMPLATE).write_text(self.template.source)


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> TextTokenizer:
    """A byte-level BPE with at most so many tokens, its end token and one for each role of a conversation."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokenizer(tokenizer, end=END)


def read_tokenizer(directory: Path) -> TextTokenizer:
    """The tokenizer of a directory in Hugging Face's layout; the file tokenizer.json alone is enough. Raises
    DataError.
    """
    path = directory / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is no tokenizer that can be read: {error}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    config = _json(directory / TOKENIZER_CONFIG)
    model = _json(directory / "config.json")
    template = config.get("chat_template") or ""
    if (directory / CHAT_TEMPLATE).is_file():
        template = (directory / CHAT_TEMPLATE).read_text()
    end = _token(config.get("eos_token"))
    if not end and isinstance(model.get("eos_token_id"), int):
        end = tokenizer.id_to_token(model["eos_token_id"]) or ""
    if not end:
        end = next((name for name in _ENDS if tokenizer.token_to_id(name) is not None), "")
    if not end:
        raise DataError(f"{path}: no token is known to end a text; name it as eos_token in {TOKENIZER_CONFIG}")
    return TextTokenizer(
        tokenizer,
        end=end,
        begin=_token(config.get("bos_token")),
        template=template if isinstance(template, str) else "",
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _token(value: Any) -> str:
    """A token's text: older files write an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""
