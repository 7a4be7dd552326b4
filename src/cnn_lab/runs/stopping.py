"""What Ctrl+C, SIGTERM and SIGUSR1 do to a run: while it trains, they wait for the end of the step."""

import signal
import threading
from types import FrameType
from typing import Any

from cnn_lab.errors import RunInterrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Slurm's for the end of a job's time


class StopRequest:
    """Turns the first of `SIGNALS` into a request while training steps, and into an end elsewhere.

    A second one ends the run at once, as does the first where nothing looks for the request.

    Attributes:
        signal: the number of the signal that came; 0 for none.
        is_awaited: whether steps are taken, after each of which the request is looked for.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.is_awaited = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals over, from Lightning too, which else ends the run where it has no checkpoint."""
        for number, handler in self._handlers.items():
            if handler != signal.SIG_IGN:  # as in a job that a shell has put into the background
                signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_first, self.signal = not self.signal, number
        if not (is_first and self.is_awaited):
            raise RunInterrupted(number)
