"""A progress bar with rate and ETA on a terminal; in a log file, one line every half minute."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

LOG_EVERY_SECONDS = 30.0


@contextmanager
def progress(
    description: str, total: int | None, unit: str = "rows", done: int = 0, stream: TextIO | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield `advance(count)`. `done` is what an earlier run finished: shown, but left out of the rate. `stream` defaults to stderr."""
    stream = stream or sys.stderr
    if stream.isatty():
        from tqdm import tqdm

        with tqdm(total=total, initial=done, desc=description, unit=f" {unit}", smoothing=0.1, file=stream) as bar:
            yield lambda count: bar.update(count) and None
        return
    started = last = time.monotonic()
    made = 0

    def line() -> str:
        seconds = max(time.monotonic() - started, 1e-9)
        rate = made / seconds
        left = f", {format_seconds((total - done - made) / rate)} left" if total is not None and rate > 0 else ""
        return f"{description}: {done + made}{'' if total is None else f'/{total}'} {unit}, {rate:.3g} {unit}/s{left}"

    def advance(count: int) -> None:
        nonlocal made, last
        made += count
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            print(line(), file=stream, flush=True)

    yield advance
    if made:
        print(f"{line()}, {format_seconds(time.monotonic() - started)} in all", file=stream, flush=True)


def format_seconds(seconds: float) -> str:
    """`75` -> `1m15s`."""
    whole = max(round(seconds), 0)
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
