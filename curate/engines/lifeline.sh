#!/bin/sh
# Stands in for Python when an engine's process is spawned: asks the kernel to kill that process when its parent ends, then becomes it.
# 1 is PR_SET_PDEATHSIG, 9 is SIGKILL. The wish survives exec, but not a fork: hence no call from the parent's side.
exec "$FOURHABITS_PYTHON" -ISc 'import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])' \
    "$FOURHABITS_PYTHON" "$@"
