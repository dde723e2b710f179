"""Child processes that end with the process that started them, also when that one is killed and cannot clean up.

An engine whose owner is gone would keep its memory, on a GPU nearly all of it, so that the resumed run could not start. vLLM ends
its workers when its core dies, but not the core when the process around it dies; neither does a manager or a task of `multiprocessing`.
"""

import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1
WRAPPER = Path(__file__).with_name("lifeline.sh")

_owner = 0  # the process whose children are tied to it; 0 while none are


@contextmanager
def children_end_with_us() -> Iterator[None]:
    """Processes that are forked or spawned inside this block are killed by the kernel when the calling thread or process ends.

    Linux alone can do this; elsewhere the block changes nothing. Spawned children go through `lifeline.sh`, the way vLLM binds its
    own to NUMA nodes, because nothing of ours runs in them before the engine does.
    """
    global _owner
    if not sys.platform.startswith("linux"):
        yield
        return
    before = _owner, multiprocessing.spawn.get_executable()
    _owner = os.getpid()
    if os.access(WRAPPER, os.X_OK):
        # It must outlive us, to remove what we leave in shared memory.
        multiprocessing.resource_tracker.ensure_running()
        os.environ |= {"FOURHABITS_PYTHON": sys.executable, "FOURHABITS_OWNER": str(_owner)}
        multiprocessing.spawn.set_executable(str(WRAPPER))
    try:
        yield
    finally:
        _owner = before[0]
        multiprocessing.spawn.set_executable(before[1])


def end_with_parent() -> None:
    """In a process that `multiprocessing` started: end at once when the process that asked for it has ended, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def _tie_forked_child() -> None:
    global _owner
    owner, _owner = _owner, 0
    if owner:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != owner:  # it ended before the kernel knew of our wish
            os._exit(1)


if sys.platform.startswith("linux"):
    import ctypes

    _prctl = ctypes.CDLL(None).prctl
    os.register_at_fork(after_in_child=_tie_forked_child)
