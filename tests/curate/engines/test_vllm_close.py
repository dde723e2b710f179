"""Closing the vLLM engine ends its reader before its core, so that nothing reports the core's death as an error."""

import asyncio

from curate.engines.rolling import EventLoopThread
from curate.engines.vllm import VllmEngine


class FakeLLM:
    """As much of AsyncLLM as closing touches: a task that waits for outputs, and a core that ends."""

    output_handler = None

    def __init__(self):
        self.ended = []

    async def read(self):
        self.output_handler = asyncio.current_task()
        await asyncio.Event().wait()

    def shutdown(self):
        self.ended.append(self.output_handler is None or self.output_handler.done())


def closed(llm, reading):
    engine = VllmEngine.__new__(VllmEngine)
    engine._llm, engine._threads = llm, EventLoopThread()
    if reading:
        asyncio.run_coroutine_threadsafe(llm.read(), engine._threads.loop)
        while llm.output_handler is None:
            pass
    engine.close()
    return llm.ended


def test_the_reader_ends_before_the_core():
    assert closed(FakeLLM(), reading=True) == [True]
    assert closed(FakeLLM(), reading=False) == [True]  # an engine that was never asked anything has no reader
