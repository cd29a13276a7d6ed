"""The smallest data that each builtin trainer can be seen at work with: rows that are whole, and rows with one that is
broken.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from trainings.builtin import artifact, configuration, run
from trainings.texts import sentence, squad, texts

BROKEN = '{"text": '


def make(task: str, name: str, directory: Path) -> str:
    """Write the specimen `name` of a trainer; its address."""
    if name == "vocabulary":
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
        words = [*tokens, *(f"##{letter}" for letter in tokens[5:])]
        (directory / "vocab.txt").write_text("\n".join(words) + "\n")
        return (directory / "vocab.txt").as_uri()
    if name in ("decoder", "tokens"):
        return _decoder(directory).as_uri()
    if task == "image-classification":
        _images(directory, name)
    elif task == "question-answering":
        _questions(directory, broken=name == "broken")
    else:
        lines = [json.dumps(row) for row in _rows(task, short=name == "short")]
        if name == "broken":
            lines.insert(5, BROKEN)
        (directory / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return directory.as_uri()


def _rows(task: str, *, short: bool) -> list[dict[str, Any]]:
    if task == "recommendation":
        draw = random.Random(4)
        return [
            {
                "label": draw.randrange(2),
                "other": draw.randrange(2),
                "price": 10 * draw.random(),
                "user": str(draw.randrange(20)),
                "item": str(draw.randrange(30)),
            }
            for _ in range(40)
        ]
    if task == "token-classification":
        return [_tagged(number) for number in range(24)]
    length = 40 if short else 400
    prose = texts(25)
    return [
        {
            "text": text[:length],
            "other": text[-length:],
            "label": number % 2,
            "kind": number % 3,
            "prompt": text[:60],
            "answer": text[60:90],
            "messages": [{"role": "user", "content": text[:60]}, {"role": "assistant", "content": text[60:90]}],
            "talk": [{"role": "user", "content": text[90:150]}, {"role": "assistant", "content": text[150:190]}],
        }
        for number, text in enumerate(prose)
    ]


def _tagged(number: int) -> dict[str, Any]:
    words, tags = zip(*sentence(number), strict=True)
    kinds = ["B-WORD" if word[0].isupper() else "O" for word in words]
    return {"tokens": words, "words": [word[::-1] for word in words], "tags": tags, "kinds": kinds}


def _questions(directory: Path, *, broken: bool) -> None:
    data = squad(range(24))
    for document in data["data"]:
        for paragraph in document["paragraphs"]:
            paragraph["context"] += " It was told to everybody who came to the market on that day." * 2
    if broken:
        data["data"][0]["paragraphs"][3]["qas"][0]["answers"][0]["answer_start"] += 1
    (directory / "train.json").write_text(json.dumps(data))


def _images(directory: Path, name: str) -> None:
    draw = np.random.default_rng(7)
    pictures = []
    for number in range(16):
        path = directory / f"{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(path)
        pictures.append(path)
    if name == "broken":
        pictures[3].write_bytes(pictures[3].read_bytes()[:100])
    if name == "parquet":
        images = [path.read_bytes() for path in pictures]
        kinds = [number // 2 % 2 for number in range(16)]
        columns = {"image": images, "other": images[::-1], "label": [n % 2 for n in range(16)], "kind": kinds}
        for path in pictures:
            path.unlink()
        pq.write_table(pa.table(columns), directory / "train.parquet")


def _decoder(directory: Path) -> Path:
    """A decoder that has hardly been trained, with its tokenizer."""
    data, output = directory / "data", directory / "output"
    data.mkdir()
    rows = [json.dumps({"text": text}) for text in texts()]
    (data / "rows.jsonl").write_text("\n".join(rows))
    small: dict[str, Any] = {
        "layers": 1,
        "width": 16,
        "heads": 2,
        "contextLength": 16,
        "vocabularySize": 800,
        "maxSteps": 1,
    }
    small["evaluationFraction"] = 0.3
    config = configuration("causal-lm", output, data.as_uri(), small)
    return artifact(run(config), config)
