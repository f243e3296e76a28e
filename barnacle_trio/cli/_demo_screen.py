"""What the demo shows: a story line by line, and the table of who sees whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from barnacle_trio.cli._demo_cluster import Row, Sight
from barnacle_trio.cli._edge import one_line

_STYLES = {
    "absent": "dim",
    "starting": "yellow",
    "up": "green",
    "killed": "red",
    "frozen": "cyan",
    "left": "dim",
}


class Screen:
    """Where the demo is told: a terminal, a file or a pipe.

    On a terminal the table stands below the story and changes as the cluster does; elsewhere it is
    printed after each chapter. ``plain`` means no colours and no control characters, ever.
    """

    def __init__(self, *, plain: bool) -> None:
        if plain:
            self._console = Console(color_system=None, force_terminal=False, highlight=False)
        else:
            self._console = Console(highlight=False)
        self._ascii = plain or not self._console.encoding.lower().startswith("utf")
        self._live: Live | None = None
        self._began = trio.current_time()

    @contextmanager
    def open(self, sight: Sight) -> Iterator[None]:
        """Show the table live, where that can be done, for as long as the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(
            _table(sight, ascii_only=self._ascii),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) as self._live:
            try:
                yield
            finally:
                self._live = None

    def show(self, sight: Sight) -> None:
        """Bring a live table up to date."""
        if self._live is not None:
            self._live.update(_table(sight, ascii_only=self._ascii), refresh=True)

    def chapter(self, title: str, style: str = "bold") -> None:
        """Begin a part of the story."""
        self._console.print()
        self._console.print(Text(title, style=style), soft_wrap=True)

    def say(self, paragraph: str) -> None:
        """Print a paragraph, in lines that are not too long to read."""
        self._console.print(Text(paragraph), width=min(self._console.width, 88))

    def quote(self, line: str) -> None:
        """Print a line that can be copied."""
        self._console.print(Text(f"  {line}", style="dim"), soft_wrap=True)

    def tell(self, text: str, style: str = "") -> None:
        """Print a line of the story, with the time since it began."""
        clock = Text(f"  {trio.current_time() - self._began:4.1f} s  ", style="dim")
        self._console.print(clock + Text(one_line(text), style=style), soft_wrap=True)

    def end_chapter(self, sight: Sight) -> None:
        """Print the table as it stands, where none is live."""
        if self._live is None:
            self._console.print(_table(sight, ascii_only=self._ascii))


def _table(sight: Sight, *, ascii_only: bool) -> Group:
    table = Table(box=box.ASCII if ascii_only else box.ROUNDED, show_edge=True, pad_edge=True)
    table.add_column("who", no_wrap=True)
    table.add_column("process", no_wrap=True)
    for row in sight:
        table.add_column(f"sees {row.name}", justify="center", no_wrap=True)
    for row in sight:
        process = row.life if row.pid is None else f"{row.life} (pid {row.pid})"
        table.add_row(
            row.name,
            Text(process, style=_STYLES[row.life]),
            *(_cell(row, other) for other in sight),
        )
    return Group(Text(), Padding(table, (0, 0, 0, 2), expand=False))


def _cell(row: Row, other: Row) -> Text:
    if row.name == other.name or row.life not in ("up", "frozen"):
        return Text("-", style="dim")
    style = "dim" if row.life == "frozen" else "green" if other.name in row.sees else "red"
    return Text("yes" if other.name in row.sees else "no", style=style)
