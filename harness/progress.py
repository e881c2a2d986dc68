"""Progress of whatever takes more than a moment."""

from __future__ import annotations

import sys
import time


class Progress:
    """Items done, rate and time left on standard error: a moving line on a terminal, else now and then."""

    def __init__(self, total: int, items: str = "networks", enabled: bool = True):
        self._total, self._items, self._done, self._enabled = total, items, 0, enabled
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def advance(self, count: int = 1) -> None:
        """Count finished items and show the line where it is due."""
        self._done += count
        now = time.monotonic()
        if not self._enabled or now - self._shown < (0.5 if self._terminal else 30):
            return
        self._shown = now
        rate = self._done / (now - self._started)
        left = (self._total - self._done) / rate
        text = f"{self._done:,}/{self._total:,} {self._items}, {rate:.2f} a second, {duration(left)} left"
        print(f"\r\x1b[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        """Remove the moving line."""
        if self._enabled and self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds as text: `2 min 05 s`, `1 h 02 min`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
