"""What the user did wrong, or what the machine lacks: one line, a documented exit code, no traceback.

Exit codes of every command:

====  =========================================================================
0     done
1     our own mistake (a traceback follows)
2     the settings or the input are wrong (`UserError`)
3     the rest is done, but some files failed; each was named (`PartialFailure`)
4     the machine cannot do it: no engine, no space, no permission (`EngineError`, `OutputError`)
75    interrupted on request with everything saved; run the same command again (`Requeue`)
====  =========================================================================
"""

import errno
from pathlib import Path


class FourHabitsError(Exception):
    """Base of every error that is shown as one line. `exit_code` is what the process returns."""

    exit_code = 2


class UserError(FourHabitsError):
    """A setting, an argument or an input is wrong; the message says which, where, and what to do."""


class PartialFailure(FourHabitsError):
    """Some inputs failed and were named; everything else is complete."""

    exit_code = 3


class EngineError(FourHabitsError):
    """The engine cannot start or has died (no GPU, no package, endpoint unreachable, budget spent)."""

    exit_code = 4


class BudgetSpent(EngineError):
    """No further request may be made; those that are on their way are paid for, and their answers still come."""


class OutputError(FourHabitsError):
    """The output folder cannot be written: disk full, read-only, missing."""

    exit_code = 4


class Requeue(FourHabitsError):
    """Stopped on request (SIGTERM, SIGUSR2) after saving; the same command goes on from there."""

    exit_code = 75


def output_error(path: Path | str, error: OSError) -> OutputError:
    """Turn an OSError met while writing `path` into the line the user needs."""
    hints = {
        errno.ENOSPC: "the disk is full; free some space and run the same command again",
        errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
        errno.EROFS: "the file system is read-only; choose another --out",
        errno.EACCES: "permission denied; choose another --out or change its permissions",
        errno.EPERM: "permission denied; choose another --out or change its permissions",
        errno.ENOTDIR: "a part of this path is a file, not a folder; choose another --out",
        errno.EEXIST: "a file stands where a folder is needed; choose another --out",
    }
    return OutputError(f"cannot write {path}: {hints.get(error.errno or 0, error.strerror or str(error))}")
