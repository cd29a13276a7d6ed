"""Every random number generator of a rank: seeded, saved and restored together."""

from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def make_deterministic() -> None:
    """Ask for the same result from the same input; an operation that has no deterministic form warns once and goes
    on.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same as use_deterministic_algorithms(True, warn_only=True), but that imports the compiler (see eager.py).
    torch.set_deterministic_debug_mode("warn")
    # Filling every new tensor with NaN would find reads of memory that nobody wrote, and costs a tenth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


@contextmanager
def strictly_deterministic() -> Iterator[None]:
    """Here an operation that has no deterministic form is an error. Only then does attention on a GPU take the form
    of its backward pass that gives the same bits every time, which is slower: asked by a warning it does not.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> bytes:
    """The state of all generators of this rank as JSON."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    version, internal, gauss_next = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {
        "python": [version, list(internal), gauss_next],
        "numpy": [str(name), np.asarray(keys).tolist(), position, has_gauss, gauss],
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(device) for device in cuda],
    }
    return json.dumps(state).encode()


def restore_random_state(content: bytes) -> None:
    """Go on with the numbers that would have come after `random_state`."""
    state = json.loads(content)
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(_tensor(state["torch"]))
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(device) for device in state["cuda"]])


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
