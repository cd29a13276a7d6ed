"""The live view while the model trains: one calm picture on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.clock import seconds_text
from demo.observation import Snapshot
from demo.plot import line_plot
from demo.words import Training, pod_words, service_words, training_words

LINE_SECONDS = 10.0
PLOT_HEIGHT = 11
WIDEST = 100
COLOURS = {
    **dict.fromkeys(("Running", "Loading"), "cyan"),
    **dict.fromkeys(("Succeeded", "Ready", "Completed"), "green"),
    **dict.fromkeys(("Failed", "Error"), "red"),
    **dict.fromkeys(("Restarting", "Stalled"), "yellow"),
}


class Shows(Protocol):
    """Shows one snapshot."""

    def __call__(self, snapshot: Snapshot) -> None: ...


@contextmanager
def live_view(console: Console) -> Iterator[Shows]:
    """What to call with each snapshot; the picture on a terminal goes when the body ends."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        yield lambda snapshot: live.update(view(snapshot, min(console.width, WIDEST)))


class _Lines:
    """A line when something other than the progress changes, and every ten seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: tuple[str, ...] = ()
        self._at = 0.0

    def __call__(self, snapshot: Snapshot) -> None:
        training, service = _training(snapshot), service_words(snapshot.service or {})
        key = (training.phase, training.note, *service, training.nodes)
        if key != self._said or time.monotonic() - self._at >= LINE_SECONDS:
            self._said, self._at = key, time.monotonic()
            self._console.print(f"  {plain_line(snapshot, training, service)}", soft_wrap=True, highlight=False)


def plain_line(snapshot: Snapshot, training: Training, service: tuple[str, str]) -> str:
    """Both resources in one line."""
    words = [f"training {training.phase}", *_figures(snapshot, training)]
    if training.nodes and training.phase != "Succeeded":
        words.append(f"pods {training.nodes}")
    if training.note:
        words.append(training.note)
    elif training.phase == "Succeeded":
        words += [f"| service {service[0]}", service[1]]
    return "  ".join(word for word in words if word)


def view(snapshot: Snapshot, width: int) -> RenderableType:
    """The picture: both resources, the pods, and the loss so far."""
    training, service = _training(snapshot), service_words(snapshot.service or {})
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    figures = Text("   ".join(_figures(snapshot, training)))
    table.add_row("training", _coloured(training.phase), figures)
    table.add_row(
        "",
        "",
        ProgressBar(
            total=1.0,
            completed=training.fraction,
            width=min(48, width - 28),
            complete_style="cyan",
            finished_style="green",
        ),
    )
    if training.note:
        table.add_row("", "", Text(training.note, style="yellow"))
    table.add_row("service", _coloured(service[0]), Text(service[1], style="dim"))
    table.add_row("pods", "", _pods(snapshot))
    parts: list[RenderableType] = [table]
    if snapshot.history.losses:
        parts += [Text(), *loss_plot(snapshot, width - 6)]
    return Padding(Group(*parts), (1, 0, 1, 4))


def loss_plot(snapshot: Snapshot, width: int) -> list[RenderableType]:
    """The loss so far over all steps of the training."""
    total = snapshot.history.total or None
    lines = line_plot(snapshot.history.losses, width, PLOT_HEIGHT, right=total)
    texts = [Text(line, style="dim", no_wrap=True) for line in lines]
    for text in texts:
        text.highlight_regex(r"[\u2800-\u28ff]+", "not dim cyan")
    return [Text("loss over steps", style="dim"), *texts]


def _training(snapshot: Snapshot) -> Training:
    """The status, with the step of the log where that is newer: a status is written every ten seconds."""
    words, history = training_words(snapshot.training or {}, datetime.now(UTC)), snapshot.history
    if history.step <= words.step:
        return words
    return Training(
        words.phase, history.step, history.total, history.epoch, words.eta, words.nodes, words.restarts, words.note
    )


def _figures(snapshot: Snapshot, training: Training) -> list[str]:
    figures = []
    if training.total:
        figures += [f"step {training.step} of {training.total}", f"epoch {training.epoch}"]
    if snapshot.history.losses:
        figures.append(f"loss {snapshot.history.losses[-1][1]:.3f}")
    if snapshot.history.accuracies:
        figures.append(f"accuracy {snapshot.history.accuracies[-1][1]:.1%}")
    if training.eta is not None:
        figures.append(f"ETA {seconds_text(round(training.eta))}")
    if training.restarts:
        figures.append(f"restarts {training.restarts}")
    return figures


def _pods(snapshot: Snapshot) -> Text:
    text = Text()
    for pod in sorted(snapshot.pods, key=lambda pod: pod["metadata"]["name"]):
        word = pod_words(pod)
        text.append(f"{pod['metadata']['name']} ", style="dim").append(f"{word}   ", style=COLOURS.get(word, ""))
    return text or Text("none yet", style="dim")


def _coloured(phase: str) -> Text:
    return Text(f"{phase:<10}", style=COLOURS.get(phase, ""))
