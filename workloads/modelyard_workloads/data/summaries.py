"""`example://docstring-summaries`: prompts and answers without a network.

The prompt is a function or class of the standard library with what its docstring explains; the answer is the line in
which the docstring sums it up. Some 2,300 pairs.
"""

from __future__ import annotations

import json
from pathlib import Path

from modelyard_workloads.data.corpus import python_docstrings

_LONGEST_PROMPT = 1500  # characters


def write(directory: Path) -> None:
    """Write pairs.jsonl: {prompt, answer}."""
    with (directory / "pairs.jsonl").open("w", encoding="utf-8") as file:
        for doc in python_docstrings():
            summary, _, rest = doc.text.partition("\n\n")
            if not rest.strip() or len(summary) > 120 or "\n" in summary.strip():
                continue
            prompt = f"Sum up:\n\n{doc.signature}\n\n{rest.strip()}"[:_LONGEST_PROMPT]
            file.write(json.dumps({"prompt": prompt, "answer": summary.strip()}) + "\n")
