"""A rolling window of asynchronous requests: as one finishes, the next is taken from the iterable."""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeVar

from curate.records.errors import BudgetSpent

Request = TypeVar("Request")
Result = TypeVar("Result")


class EventLoopThread:
    """An asyncio loop in a thread of its own, so that a synchronous pipeline step can keep many requests in flight."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="engine-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Awaitable[Result]) -> Result:
        """Run one coroutine to its end and return its result."""
        return asyncio.run_coroutine_threadsafe(_awaited(coroutine), self.loop).result()

    def stream(self, requests: Iterable[Request], call: Callable[[Request], Awaitable[Result]], window: int) -> Iterator[Result]:
        """Yield results as they finish, with at most `window` requests in flight. The first exception ends the stream, but a spent
        budget ends it only when what is in flight has come: it is paid for.

        The iterable is advanced in the caller's thread, only when there is room: reading and tokenising interleave with the engine's
        work. An iterator that has nothing now may have more after a result (a retry, the next step of a job), so it is asked again
        until nothing is in flight.
        """
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        source = iter(requests)
        in_flight: set[Any] = set()
        spent: BudgetSpent | None = None
        try:
            while True:
                while spent is None and len(in_flight) < window and (request := next(source, None)) is not None:
                    future = asyncio.run_coroutine_threadsafe(_awaited(call(request)), self.loop)
                    in_flight.add(future)
                    future.add_done_callback(finished.put)
                if not in_flight and spent is not None:
                    raise spent
                if not in_flight:
                    return
                future = finished.get()
                in_flight.discard(future)
                try:
                    result = future.result()
                except BudgetSpent as error:
                    spent = error
                    continue
                yield result
        finally:
            for future in in_flight:
                future.cancel()

    def close(self) -> None:
        """Stop the loop and wait for its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=10)


async def _awaited(awaitable: Awaitable[Result]) -> Result:
    return await awaitable
