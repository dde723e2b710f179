#!/bin/sh
# Stands in for Python when an engine's process is spawned: asks the kernel to kill that process when its parent ends, then becomes it.
# 1 is PR_SET_PDEATHSIG, 9 is SIGKILL; the wish survives exec. A parent that ended before the kernel knew of it is found by its number.
exec "$FOURHABITS_PYTHON" -ISc '
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(os.environ["FOURHABITS_OWNER"]):
    sys.exit(1)
os.execv(sys.argv[1], sys.argv[1:])
' "$FOURHABITS_PYTHON" "$@"
