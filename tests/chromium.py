"""A headless Chromium over its DevTools pipe: opens a page, and keeps what it asked for and what it complained about."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = [
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage", "--remote-debugging-pipe"),
]
# Chromium reads commands from descriptor 3 and writes to 4; a start with just these two open is easiest from a process of its own.
LAUNCH = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
TIMEOUT_SECONDS = 60.0


def find_chromium() -> str | None:
    """Path of a Chromium, or None."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Page:
    """`requests`: every address asked for; `complaints`: console errors and warnings, exceptions, refused loads."""

    browser: "Chromium"
    session: str
    requests: list[str]
    complaints: list[str]

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression on the page."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def resize(self, width: int, height: int = 900) -> None:
        self.browser.call("Emulation.setDeviceMetricsOverride", self.session, width=width, height=height, deviceScaleFactor=1, mobile=False)

    def print_media(self, width: int) -> None:
        """Lay the page out as it is printed."""
        self.resize(width)
        self.browser.call("Emulation.setEmulatedMedia", self.session, media="print")


class Chromium:
    """Context: a browser with a fresh profile."""

    def __enter__(self) -> "Chromium":
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        ours_in, theirs_out = _pipe()
        theirs_in, ours_out = _pipe()
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        binary = find_chromium()
        assert binary is not None
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), binary, *flags],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._in)
        os.close(self._out)  # Chromium ends when its pipe does
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._profile.cleanup()

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come first are kept."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._events.append(message)

    def open(self, path: Path, quiet_seconds: float = 0.5) -> Page:
        """Load a local file and wait until it is loaded and nothing has happened for a moment."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        self._events.clear()
        self.call("Page.navigate", session, url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._receive())
        while self._readable(quiet_seconds):
            self._events.append(self._receive())
        requests, complaints = [], []
        for event in self._events:
            method, parameters = event["method"], event.get("params", {})
            if method == "Network.requestWillBeSent":
                requests.append(parameters["request"]["url"])
            elif method == "Network.loadingFailed":
                complaints.append(f"refused: {parameters.get('blockedReason') or parameters['errorText']}")
            elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                complaints.append(parameters["entry"]["text"])
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                complaints.append(json.dumps(parameters["args"]))
            elif method == "Runtime.exceptionThrown":
                complaints.append(json.dumps(parameters["exceptionDetails"]))
        return Page(self, session, requests, complaints)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("Chromium does not answer")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise RuntimeError(f"Chromium ended with exit code {self._process.wait()}")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _readable(self, seconds: float) -> bool:
        return b"\0" in self._buffer or bool(select.select([self._in], [], [], seconds)[0])


def _pipe() -> tuple[int, int]:
    """A pipe whose ends lie well above the descriptors 3 and 4 that the browser wants."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
