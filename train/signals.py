"""SIGTERM and SIGUSR2 ask for a stop: the run finishes its step, saves, and leaves with exit code 75 so that a scheduler requeues it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from curate.records.errors import Requeue

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopRequest:
    """Whether a stop was asked for. `name` is the signal's name, or None."""

    def __init__(self) -> None:
        self.name: str | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: only takes note."""
        self.name = signal.Signals(number).name

    @property
    def requested(self) -> bool:
        """True once a signal came. With several processes, combine this over all of them before acting on it."""
        return self.name is not None

    def requeue(self, step: int, folder: object) -> Requeue:
        """The error to raise after the state of `step` is saved in `folder`."""
        return Requeue(f"stopped by {self.name or 'another process'} after step {step}, saved in {folder}; run the same command to go on")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Take note of SIGTERM and SIGUSR2 inside the block; the former handlers come back after it. Main thread only."""
    request = StopRequest()
    former = {number: signal.signal(number, request.handle) for number in STOP_SIGNALS}
    try:
        yield request
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
