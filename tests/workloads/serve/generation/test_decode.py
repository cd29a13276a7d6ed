"""The decoding step of GPUs: what of it runs on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from modelyard_workloads.serve.generation.decode import graph_runner, row_counts
from servers import language


def test_the_kernels_are_right() -> None:
    """Triton decides when it is imported whether it interprets: these tests need a process of their own."""
    tests = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "6 passed" in done.stdout


def test_steps_are_recorded_for_few_rows_each_and_then_by_16() -> None:
    assert row_counts(1) == [1]
    assert row_counts(3) == [1, 2, 4]
    assert row_counts(16) == [1, 2, 4, 8, 16]
    assert row_counts(50) == [1, 2, 4, 8, 16, 32, 48, 64]


def test_there_is_no_runner_for_a_cpu() -> None:
    decoder = language.model()
    assert language.engine(decoder)._runner is None
    assert graph_runner(decoder, language.engine(decoder)._cache, spare=1, most=1, longest=1) is None
