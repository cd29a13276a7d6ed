"""WordPiece (Schuster and Nakajima 2012; Devlin et al. 2019): trained on a corpus, read, and written as Hugging Face
reads it. Imports no torch.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modelyard_workloads.exits import DataError

PAD, UNKNOWN, FIRST, SEPARATOR, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TOKENIZER, TOKENIZER_CONFIG, VOCABULARY = "tokenizer.json", "tokenizer_config.json", "vocab.txt"
_ALPHABET = 1000  # the most frequent characters; any other one is unknown


def train_wordpiece(texts: Callable[[], Iterable[str]], size: int, *, lowercase: bool) -> Tokenizer:
    """A vocabulary of at most `size` tokens, the same for the same texts; `texts` is called twice.

    The library's trainer numbers characters in the order of a hash table and breaks ties between equally frequent
    pairs by these numbers: two runs differ. Here all characters are given to it in advance, in an order of our own.
    """
    blank = _tokenizer({}, lowercase)
    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(blank.normalizer.normalize_str(text))
    frequent = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))[:_ALPHABET]
    if not frequent:
        raise DataError("dataset.uri: the texts are empty; there is nothing to train a tokenizer on")
    first = [*SPECIAL, *(prefix + c for c in frequent for prefix in ("", "##"))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(size, len(first)),
        special_tokens=first,
        initial_alphabet=frequent,
        limit_alphabet=len(frequent),
        show_progress=False,
    )
    blank.train_from_iterator(texts(), trainer)
    return _tokenizer(blank.get_vocab(with_added_tokens=True), lowercase)


def read_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer.json of a directory, or its vocab.txt. Raises DataError when there is neither, or it is no
    WordPiece.
    """
    try:
        if (directory / TOKENIZER).exists():
            return parse_tokenizer((directory / TOKENIZER).read_bytes(), str(directory / TOKENIZER))
        lines = (directory / VOCABULARY).read_text(encoding="utf-8").splitlines()
        config = directory / TOKENIZER_CONFIG
        raw: Any = json.loads(config.read_bytes()) if config.exists() else {}
        return vocabulary_tokenizer(lines, str(directory / VOCABULARY), lowercase=bool(raw.get("do_lower_case", True)))
    except (OSError, ValueError) as error:
        raise DataError(f"{directory}: no usable tokenizer ({error}); expected {TOKENIZER} or {VOCABULARY}") from None


def parse_tokenizer(content: bytes, where: str) -> Tokenizer:
    """A tokenizer.json. Raises DataError."""
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{where}: is no tokenizer.json: {error}") from None
    return _checked(tokenizer, where)


def vocabulary_tokenizer(lines: list[str], where: str, *, lowercase: bool) -> Tokenizer:
    """A vocab.txt: one token a line. Raises DataError."""
    vocabulary = {line: number for number, line in enumerate(lines)}
    missing = [token for token in SPECIAL if token not in vocabulary]
    if missing:
        raise DataError(f"{where}: has no {', '.join(missing)}; a WordPiece vocabulary needs {', '.join(SPECIAL)}")
    return _tokenizer(vocabulary, lowercase)


def special_id(tokenizer: Tokenizer, token: str) -> int:
    """The number of a special token, which every tokenizer here has."""
    number = tokenizer.token_to_id(token)
    assert number is not None
    return number


def _checked(tokenizer: Tokenizer, where: str) -> Tokenizer:
    missing = [token for token in SPECIAL if tokenizer.token_to_id(token) is None]
    if missing:
        raise DataError(f"{where}: has no {', '.join(missing)}; a WordPiece tokenizer needs {', '.join(SPECIAL)}")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _tokenizer(vocabulary: dict[str, int], lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if vocabulary:
        tokenizer.add_special_tokens(list(SPECIAL))
        ends = (SEPARATOR, vocabulary[SEPARATOR]), (FIRST, vocabulary[FIRST])
        tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, directory: Path, *, context: int) -> None:
    """tokenizer.json, tokenizer_config.json and vocab.txt, as transformers loads them."""
    (directory / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
    normalizer = json.loads(tokenizer.to_str()).get("normalizer") or {}
    config = {
        "tokenizer_class": "BertTokenizerFast",
        "model_max_length": context,
        "do_lower_case": bool(normalizer.get("lowercase", False)),
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "cls_token": FIRST,
        "sep_token": SEPARATOR,
        "mask_token": MASK,
    }
    (directory / TOKENIZER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    (directory / VOCABULARY).write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
