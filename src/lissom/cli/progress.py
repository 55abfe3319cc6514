"""The one progress display: bars on stderr, with the time left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from lissom.logs import Advance


class TerminalProgress:
    """Bars on stderr; without a terminal, one line when a task ends."""

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar of `total` steps until the context ends."""
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=False, disable=not console.is_terminal) as bars:
            bar = bars.add_task(description, total=total)
            yield lambda steps: bars.advance(bar, steps)
        if not console.is_terminal:
            console.print(f"{description}: done", highlight=False)
