"""What the demo shows in the end: predictions beside the truth, figures, the loss, metrics, what to try next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from demo.clock import COLD_SECONDS, WARM_SECONDS, Clock, seconds_text
from demo.inference import Prediction
from demo.pictures import enlarge, picture
from demo.series import Series

PICTURE_SIZE = 12  # pixels: 12 columns and 6 lines
INDENT = (0, 0, 0, 4)


@dataclass(frozen=True)
class Answers:
    """Predictions for images (N, C, H, W) beside the truth; `together_seconds` for all, `clients` at a time."""

    images: NDArray[np.float32]
    truth: Sequence[str]
    predictions: Sequence[Prediction]
    clients: int
    together_seconds: float

    @property
    def right(self) -> list[bool]:
        return [p.label == truth for p, truth in zip(self.predictions, self.truth, strict=True)]


def title(console: Console, text: str) -> None:
    """The heading of a step."""
    console.print()
    console.print(Text(text, style="bold"))


def show_pictures(console: Console, answers: Answers) -> None:
    """One image of every class, then the ones that the model got wrong."""
    right = answers.right
    chosen = [next(i for i, t in enumerate(answers.truth) if t == label) for label in sorted(set(answers.truth))]
    wrong = [i for i, is_right in enumerate(right) if not is_right and i not in chosen]
    fitting = max(1, (min(console.width, 160) - 4) // (PICTURE_SIZE + 3))
    _show(console, answers, chosen)
    if wrong:
        console.print(Padding(Text("and what it got wrong:", style="dim"), INDENT))
        console.print()
        _show(console, answers, wrong[:fitting])


def _show(console: Console, answers: Answers, indices: Sequence[int]) -> None:
    has_greys = console.color_system in ("256", "truecolor")
    cells = [_cell(answers, index, has_greys) for index in indices]
    console.print(Padding(Columns(cells, padding=(0, 3, 0, 0)), INDENT))


def _cell(answers: Answers, index: int, colour: bool) -> Group:
    """The picture; below it the prediction and the truth."""
    prediction, truth = answers.predictions[index], answers.truth[index]
    is_right = prediction.label == truth
    image = enlarge(answers.images[index].mean(axis=0).astype(float), PICTURE_SIZE)
    mark, style = ("✓", "green") if is_right else ("✗", "red")
    says = Text.assemble((f"{mark} {prediction.label}", f"bold {style}"), (f"  {prediction.probability:.1%}", "dim"))
    return Group(*picture(image, colour=colour), says, Text(f"truth {truth}", style="dim"), Text())


def show_figures(console: Console, answers: Answers) -> None:
    """Accuracy and latency."""
    right, seconds = answers.right, [prediction.seconds for prediction in answers.predictions]
    p50, p99 = (1000 * float(np.percentile(seconds, q)) for q in (50, 99))
    rate = len(right) / answers.together_seconds
    table = _table()
    table.add_row(
        "accuracy", f"[bold]{sum(right) / len(right):.2%}[/]", f"{sum(right)} of {len(right)} held-out images"
    )
    table.add_row("latency", f"p50 {p50:.1f} ms   p99 {p99:.1f} ms", "one image a request, one after the other")
    table.add_row("throughput", f"{rate:.0f} images/s", f"{answers.clients} clients at once; the server batches them")
    console.print(Padding(table, INDENT))


def show_series(console: Console, source: str, series: Sequence[Series], problem: str = "") -> None:
    """Prometheus series of one process."""
    console.print()
    console.print(Text(f"    {source}", style="cyan"))
    if not series:
        console.print(Text(f"    {problem or 'nothing was served'}", style="yellow"), soft_wrap=True)
    names = [item.name + item.labels for item in series]
    name_width = max(map(len, names), default=0)
    value_width = max((len(item.value) for item in series), default=0)
    for name, item in zip(names, series, strict=True):
        line = Text.assemble(f"    {name:<{name_width}}   ", (f"{item.value:<{value_width}}", "bold"), "   ")
        line.append(item.help, style="dim")
        line.truncate(max(console.width, name_width + value_width + 8), overflow="ellipsis")  # help alone is shortened
        console.print(line, soft_wrap=True)


def show_budget(console: Console, clock: Clock) -> None:
    """Seconds by step, and in all."""
    table = _table()
    for name, seconds in clock.steps.items():
        table.add_row(name, Text(seconds_text(seconds), justify="right"))
    table.add_row("in all", Text(seconds_text(clock.total), style="bold", justify="right"))
    console.print(Padding(table, INDENT))
    note = f"meant to take at most {COLD_SECONDS // 60} min the first time, {WARM_SECONDS // 60} min from then on"
    console.print(Padding(Text(note, style="dim"), INDENT))


def _table() -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()  # gives way where the terminal is narrow
    return table
