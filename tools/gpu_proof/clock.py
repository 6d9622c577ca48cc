"""The time that a proof has, and its lines of progress."""

import time


class Clock:
    """Counts down the time that is left, and prints progress with the time that has passed."""

    def __init__(self, minutes: float) -> None:
        self._began = time.monotonic()
        self._end = self._began + 60 * minutes

    @property
    def left_s(self) -> float:
        """Seconds left. At least 1, so that a command that is started with it can still end by itself."""
        return max(1.0, self._end - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self._end

    def say(self, text: str) -> None:
        """Print one line of progress."""
        print(f"{time.monotonic() - self._began:6.0f} s  {text}", flush=True)
