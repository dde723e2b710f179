"""Consent: before a text leaves this machine, and before work above a threshold. Asked once, in one place, before anything starts."""

import ipaddress
import sys

from curate.engines.settings import EngineSettings
from curate.records.errors import UserError

OWN_ENGINES = ("vllm", "student", "extract")  # they run here, whatever --base-url says


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own: localhost, 127.0.0.0/8, ::1. Any other name is taken for another machine.

    Read by httpx, as the engine reads it: two readings of one address could differ. An address that is none is nowhere.
    """
    import httpx

    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return True
    if parsed.scheme not in ("http", "https") or not parsed.host:
        return True  # the engine refuses it
    if parsed.host == "localhost" or parsed.host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(parsed.host).is_loopback
    except ValueError:
        return False


def leaves_machine(settings: EngineSettings) -> bool:
    """Whether the texts are sent to another machine."""
    return settings.base_url is not None and settings.engine not in OWN_ENGINES and not is_loopback(settings.base_url)


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


def agree_to_cost(sent: str, dollars: float, settings: EngineSettings, words: str = "about", agreed: bool = False) -> None:
    """Ask before `sent` (a clause such as "12 plans are sent to https://…") when that leaves the machine and was not `agreed` to already,
    and before more than --ask-above-dollars is spent: `dollars`, or --max-dollars where it is less; `words` says how sure the sum is.

    Raises UserError as `agree` does.
    """
    reasons = [sent] if leaves_machine(settings) and not agreed else []
    spent = dollars if settings.max_dollars is None else min(dollars, settings.max_dollars)
    if spent > settings.ask_above_dollars:
        reasons.append(f"{words} ${spent:,.2f} are spent (more than --ask-above-dollars {settings.ask_above_dollars:g})")
    if reasons:
        agree(" and ".join(reasons), settings.yes)
