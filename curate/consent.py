"""Consent: before a text leaves this machine, and before work above a threshold. Asked once, in one place, before anything starts."""

import ipaddress
import sys
from urllib.parse import urlsplit

from curate.engines.settings import EngineSettings
from curate.records.errors import UserError


def is_loopback(url: str | None) -> bool:
    """Whether an address is this machine's own: localhost, 127.0.0.0/8, ::1. Any other name is taken for another machine."""
    host = urlsplit(url or "").hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def leaves_machine(settings: EngineSettings) -> bool:
    """Whether the texts are sent to another machine."""
    return settings.engine == "openai" and bool(settings.base_url) and not is_loopback(settings.base_url)


def agree(what: str, yes: bool) -> None:
    """Return when the user agrees to `what` (a clause such as "120 documents are sent to https://…"): by --yes, or at the terminal.

    Raises UserError when they do not, or when there is no terminal to ask at.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"{what}: agree with --yes (there is no terminal to ask at); nothing was started")
    print(f"{what}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError("not agreed to: nothing was started")
