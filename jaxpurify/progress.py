"""A progress bar on standard error where the terminal can show one, and nothing elsewhere."""

import sys
from typing import Any


class Progress:
    """Show how far a long piece of work is; a context manager.

    Args:
        title: what is being done.
        total: number of ``advance`` to come, or None where it is not known.
        enabled: whether to show it; by default where standard error is a terminal.
    """

    def __init__(self, title: str, total: int | None, *, enabled: bool | None = None):
        self.title, self.total = title, total
        self.enabled = (sys.stderr is not None and sys.stderr.isatty()) if enabled is None else enabled
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        if self.enabled:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int = 1) -> None:
        """Move on.

        Args:
            steps: how far.
        """
        if self._bar is not None:
            self._bar.advance(self._task, steps)

    def describe(self, title: str) -> None:
        """Change what is being done.

        Args:
            title: the new text.
        """
        if self._bar is not None:
            self._bar.update(self._task, description=title)
