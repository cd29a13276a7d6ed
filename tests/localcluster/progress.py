"""Progress on stderr: one line a step, with its seconds; on a terminal the line counts while the step runs."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show `what … 74 s` while and after the body runs; without a terminal, a line early on and one at the end."""
    started = time.monotonic()
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, started, done), daemon=True)
    ticker.start()
    outcome = "failed after "
    try:
        yield
        outcome = ""
    finally:
        done.set()
        ticker.join()
        _line(f"{what} … {outcome}{time.monotonic() - started:.1f} s", last=True)


def _tick(what: str, started: float, done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    if not terminal:
        if not done.wait(3):
            _line(f"{what} …", last=True)
        return
    while not done.wait(1):
        _line(f"{what} … {time.monotonic() - started:.0f} s", last=False)


def say(message: str) -> None:
    """One plain line."""
    print(message, file=sys.stderr, flush=True)


def _line(text: str, *, last: bool) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
