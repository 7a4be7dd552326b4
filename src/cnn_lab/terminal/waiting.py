"""A sign of life on standard error while a command has nothing else to show."""

import os
import sys
import threading
import time

PATIENCE = 0.4  # seconds: what takes less needs no line in a file or a pipe
TICK = 0.5  # seconds between two looks, which a library that is being loaded can delay
ERASE = "\r\x1b[K"


class Sign:
    """What the user waits for: on a terminal one line with the seconds, which what follows overwrites.

    Elsewhere each text is written once, as a line, and none at all by a command that is quick.
    """

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.since = self.start
        self.text = ""
        self.written: set[str] = set()
        self.lock = threading.RLock()
        self.is_shown = False
        self.is_on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        threading.Thread(target=self._keep_showing, daemon=True).start()

    def say(self, text: str) -> None:
        """Tell what is waited for from now on: nothing, where `text` is empty."""
        with self.lock:
            if self.is_shown:
                self._write(ERASE)
                self.is_shown = False
            self.text = text
            self.since = time.monotonic()
            self._show()

    def _keep_showing(self) -> None:
        while True:
            time.sleep(TICK)
            with self.lock:
                self._show()

    def _show(self) -> None:
        if not self.text:
            return
        now = time.monotonic()
        if self.is_on_terminal:
            self._write(f"{ERASE}{self.text} ... {now - self.since:.0f} s")
            self.is_shown = True
        elif now - self.start > PATIENCE and self.text not in self.written:
            self.written.add(self.text)
            self._write(f"{self.text} ...\n")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


_signs: list[Sign] = []


def start() -> None:
    """Show signs of life in this process from now on."""
    _signs.append(Sign())


def say(text: str) -> None:
    """Tell what the user waits for until `hush`, in a process that shows signs of life."""
    for sign in _signs:
        sign.say(text)


def hush() -> None:
    """Make room for what is printed next."""
    say("")
