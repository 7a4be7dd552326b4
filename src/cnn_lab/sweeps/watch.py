"""What a sweep shows of its runs while they train: read from their directories, wherever they train."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cnn_lab.errors import first_line
from cnn_lab.runs.record import read_result, read_status
from cnn_lab.terminal.screen import Screen, format_outcome

POLL_SECONDS = 0.5
LONGEST_REASON = 100  # characters; the report at the end has all of it


class Watch:
    """A line for each run that has ended; in a terminal, below them, one for each that is running.

    Args:
        runs: the directory of each run and its settings.
        ended, total: runs of the sweep that have ended already, and of all.
    """

    def __init__(
        self, runs: Sequence[tuple[Path, Mapping[str, Any]]], ended: int, total: int, screen: Screen
    ) -> None:
        self.waiting = dict(runs)
        self.ended = ended
        self.total = total
        self.screen = screen
        self._tasks: dict[Path, Any] = {}
        self._reasons: dict[str, str] = {}  # why runs failed, each with the name of the first
        self._seen = {path: read_status(path, read_result(path)) for path in self.waiting}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            console=screen.console,
            transient=True,
            disable=not screen.console.is_terminal,
            refresh_per_second=2,
        )
        self._starting = self._progress.add_task("starting", total=None, metrics="")

    def __enter__(self) -> "Watch":
        self._progress.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self._progress.stop()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._look()
            self._progress.update(self._starting, visible=not self._tasks)

    def _look(self) -> None:
        for path in list(self.waiting):
            result = read_result(path)
            status = read_status(path, result)
            if status == "running":
                self._seen[path] = status
                self._show_running(path, result)
            elif result and status != self._seen[path]:
                self._show_ended(path, {**result, "status": status})

    def _show_running(self, path: Path, result: Mapping[str, Any]) -> None:
        if path not in self._tasks:
            epochs = self.waiting[path]["trainer"].get("max_epochs") or -1
            total = epochs if epochs > 0 else None
            self._tasks[path] = self._progress.add_task(path.name, total=total, metrics="")
        best = result.get("best")
        metrics = f"best val {best['val/accuracy']:.2%}" if best else ""
        self._progress.update(self._tasks[path], completed=result.get("epochs", 0), metrics=metrics)

    def _show_ended(self, path: Path, result: Mapping[str, Any]) -> None:
        del self.waiting[path]
        if path in self._tasks:
            self._progress.remove_task(self._tasks.pop(path))
        self.ended += 1
        if result["status"] == "failed":
            reason = first_line(result.get("error", ""))
            first = self._reasons.setdefault(reason, path.name)
            short = reason if len(reason) <= LONGEST_REASON else f"{reason[:LONGEST_REASON]}..."
            result = {**result, "error": short if first == path.name else f"as {first} did"}
        style = {"failed": "red", "interrupted": "yellow"}.get(result["status"])
        self.screen.show(f"{self.ended:>4}/{self.total}  {format_outcome(path.name, result)}", style=style)
