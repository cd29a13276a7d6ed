"""Speed of the trainers on a GPU beside what people run there: `make bench-gpu` (ONLY=gpt|bert|resnet|wide-deep).

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", …}: ratio above 1 says that ours is better. Each
side is a process of its own (see gpu_side.py). Both warm up, which compiles what they compile, and then take turns on
the GPU; the medians are compared. Our side uses the objects that a training pod uses: Task, Training, Backward.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
_PATHS = os.pathsep.join([str(HERE.parents[1] / "workloads"), str(HERE.parent)])
_TURN_SECONDS = 1.0
FAMILIES = {
    "gpt": ("GPT-2 124M, 1,024 tokens, batch 32", "gpu_gpt.py"),
    "bert": ("BERT-large, pretraining, 16 to 512 tokens, batch 32", "gpu_bert.py"),
    "resnet": ("ResNet-50, 224 pixels, batch 256", "gpu_resnet.py"),
    "wide-deep": ("Wide & Deep, 39 columns, 2.6 million rows, batch 65,536", "gpu_wide_deep.py"),
}


class Process:
    """One side."""

    def __init__(self, script: str, side: str, folder: Path, *, tiny: bool) -> None:
        command = [sys.executable, str(HERE / script), side, str(folder), *(["tiny"] if tiny else [])]
        environment = os.environ | {"PYTHONPATH": f"{_PATHS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        environment |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        folder.mkdir(parents=True, exist_ok=True)
        self._begun = False
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def answer(self) -> dict[str, Any]:
        """The next line. Raises RuntimeError with the end of the log when the process is gone."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(self._log.read_text()[-3000:])

    def ask(self, question: str) -> dict[str, Any]:
        """One question and its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self.answer()

    def begin(self) -> None:
        """Ask for the warm-up, and do not wait for it."""
        assert self._process.stdin is not None
        if not self._begun:
            self._process.stdin.write("begin\n")
            self._process.stdin.flush()
        self._begun = True

    def ready(self) -> dict[str, Any]:
        """Wait for the warm-up; called once."""
        self.begin()
        return self.answer()

    def end(self) -> None:
        """Let go of the GPU."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


def compare(family: str, sides: dict[str, Process], rounds: int, questions: list[str]) -> dict[str, Any]:
    """The line of a family whose sides have been started."""
    ready = {name: side.ready() for name, side in sides.items()}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    steps = {name: _steps(side.ask("time 3")) for name, side in sides.items()}
    for _ in range(rounds):
        for name, side in sides.items():
            runs[name].append(side.ask(f"time {steps[name]}"))
    rates = {name: statistics.median(run["rate"] for run in results) for name, results in runs.items()}
    about = ready["ours"]
    line = {"bench": FAMILIES[family][0], "unit": about.pop("unit"), "ours": round(rates["ours"], 1)}
    if "peer" in sides:
        line |= {
            "peer": ready["peer"].pop("peer"),
            "theirs": round(rates["peer"], 1),
            "ratio": round(rates["ours"] / rates["peer"], 2),
        }
    if "matmulPeak" in about:
        peak = about["matmulPeak"]
        line["mfu"] = round(rates["ours"] * about["flopsPerToken"] / peak, 3)
        line["mfuCausal"] = round(rates["ours"] * about["causalFlopsPerToken"] / peak, 3)
        line["mfuNominal"] = round(rates["ours"] * about["flopsPerToken"] / 989e12, 3)
        if "peer" in sides:
            line["theirMfu"] = round(rates["peer"] * about["flopsPerToken"] / peak, 3)
    line["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    line["torch"] = torch.__version__
    line["ready"] = ready
    line["rounds"] = {name: [round(run["rate"], 1) for run in results] for name, results in runs.items()}
    for question in questions:
        line[question] = {name: side.ask(f"{question} {steps[name]}") for name, side in sides.items()}
    return line


def _steps(run: dict[str, float]) -> int:
    return max(3, round(_TURN_SECONDS * 1e3 / run["milliseconds"]))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, with commas between them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", default="ours,peer")
    parser.add_argument("--tiny", action="store_true", help="to try the scripts out")
    parser.add_argument("--ask", default="resume", help="see gpu_side.py; with commas between them")
    parser.add_argument("--output", type=Path, help="a file for the lines")
    arguments = parser.parse_args()
    families, questions = arguments.only.split(","), [q for q in arguments.ask.split(",") if q]
    with tempfile.TemporaryDirectory() as folder:

        def start(family: str) -> dict[str, Process]:
            _, script = FAMILIES[family]
            root = Path(folder) / family
            return {s: Process(script, s, root / s, tiny=arguments.tiny) for s in arguments.sides.split(",")}

        for family in families:
            sides = start(family)
            for side in sides.values():
                side.begin()
            try:
                line = json.dumps(compare(family, sides, arguments.rounds, questions))
            except RuntimeError as error:
                line = json.dumps({"bench": FAMILIES[family][0], "error": str(error)})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            if arguments.output:
                with arguments.output.open("a") as file:
                    file.write(line + "\n")
            for side in sides.values():
                side.end()


if __name__ == "__main__":
    main()
