"""Tokens as text, piece by piece."""

from __future__ import annotations

import random

import pytest
from modelyard_workloads.serve.generation.text import StopStrings, TextCodec
from servers.language import END, byte_tokenizer, codec
from tokenizers import Tokenizer, decoders, models

TEXTS = ["plain", "naïve café", "日本語のテキスト", "🦀🏳️‍🌈 family 👩‍👩‍👧", "mixed é🦀x\n\t "]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_make_up_the_text(text: str) -> None:
    made = codec()
    detokenizer = made.detokenizer()
    pieces = [detokenizer.add(token) for token in made.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)
    assert detokenizer.finish() == ""


@pytest.mark.parametrize("seed", range(30))
def test_any_bytes_give_the_same_text_in_pieces_and_at_once(seed: int) -> None:
    chance = random.Random(seed)
    made = codec()
    tokens = [chance.randrange(made.vocabulary) for _ in range(60)]
    detokenizer = made.detokenizer()
    text = "".join(map(detokenizer.add, tokens)) + detokenizer.finish()
    assert text == made.decode(tokens) == byte_tokenizer().decode(tokens)


def test_an_unfinished_character_is_shown_at_the_end_only() -> None:
    made = codec()
    tokens = made.encode("é")
    detokenizer = made.detokenizer()
    assert detokenizer.add(tokens[0]) == ""
    assert detokenizer.finish() == "\ufffd"


def test_special_tokens_are_no_text_and_have_a_name() -> None:
    made = codec()
    end = made.token_id(END)
    assert end is not None
    assert made.decode([*made.encode("a"), end, *made.encode("b")]) == "ab"
    assert made.piece(end) == END
    assert made.piece(made.encode("é")[0]) == "bytes:\\xc3"


def sentencepiece() -> TextCodec:
    """As Llama's first tokenizers: a character for the space, bytes that fall back, a decoder that strips."""
    words = ["<unk>", "▁", "▁he", "llo", "▁wor", "ld", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(
        models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    return TextCodec(tokenizer)


def test_decoders_that_look_at_neighbours_give_the_same_text_in_pieces_and_at_once() -> None:
    made = sentencepiece()
    first = 7  # of the bytes
    crab = [first + byte for byte in "🦀é".encode()]
    tokens = [2, 3, 4, 5, 6, *crab, 2, 3]
    detokenizer = made.detokenizer()
    pieces = [detokenizer.add(token) for token in tokens]
    assert "".join(pieces) + detokenizer.finish() == made.decode(tokens) == "hello worlda🦀é hello"
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize(
    ("pieces", "shown", "stopped"),
    [
        (["ab", "cSTO", "P", "x"], "abc", True),
        (["ab", "cSTO", "B", "x"], "abcSTOBx", False),
        (["SSTOP"], "S", True),
        (["S", "T", "O", "S", "T", "O", "P"], "STO", True),
        (["one END two STOP"], "one ", True),  # whichever comes first
        (["", "ST"], "ST", False),
    ],
)
def test_stop_strings_are_found_across_pieces(pieces: list[str], shown: str, stopped: bool) -> None:
    stops = StopStrings(("STOP", "END"), include=False)
    text, found = "", False
    for piece in pieces:
        more, found = stops.add(piece)
        text += more
        if found:
            break
    assert (text + ("" if found else stops.finish()), found) == (shown, stopped)
