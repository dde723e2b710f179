"""The `curate` command as a program of its own, which can be told to die at a rename.

    python command.py MOMENT NUMBER classify --dataset …

MOMENT is `never`, or when the process kills its whole group with SIGKILL: `before` the rename of part NUMBER (it is written, but has
its temporary name), `torn` (the same, with half its bytes) or `after` it. Tasks run this file again, so the trap is set in them too.
"""

import os
import signal
import sys

_rename = os.replace
_count = 0


def trapped_rename(source: os.PathLike, target: os.PathLike) -> None:
    """`os.replace` that counts the parts this process renames."""
    global _count
    moment, number = sys.argv[1], int(sys.argv[2])
    if moment == "never" or not str(target).endswith(".parquet"):
        return _rename(source, target)
    _count += 1
    if _count == number:
        if moment == "torn":
            os.truncate(source, os.path.getsize(source) // 2)
        if moment == "after":
            _rename(source, target)
        os.killpg(0, signal.SIGKILL)
    _rename(source, target)


os.replace = trapped_rename  # type: ignore[assignment]

if __name__ == "__main__":
    from pipelines.main import app

    app(sys.argv[3:])
