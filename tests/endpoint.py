"""A scripted OpenAI-compatible server on loopback: answers by cue words, with latency and faults on demand."""

import hashlib
import json
import math
import random
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CUES = {
    "check": "Check",
    "give up": "EDIT",
    "intermediate": "First",
    "backwards": "suffices",
    "simpler case": "simpler",
    "state a problem": "?",
    "part of a solution": "=",
}


class Server(ThreadingHTTPServer):
    """Takes bursts of connections, and says nothing of those that a killed client left."""

    daemon_threads = True
    request_queue_size = 512  # with the default of 5 a burst waits for a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Endpoint:
    """`fault(number, body)` may return (status, headers, raw bytes) to send instead of an answer, or a number of seconds to hang."""

    def __init__(self, fault: Callable[[int, dict], Any] | None = None, latency_seconds: float = 0.0) -> None:
        self.fault, self.latency_seconds = fault, latency_seconds
        self.bodies: list[dict] = []
        self._lock = threading.Lock()
        self._jitter = random.Random(0)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                raw = self.rfile.read(length := int(self.headers["Content-Length"]))
                if len(raw) < length:  # the client was killed
                    return
                body = json.loads(raw)
                status, headers, raw = endpoint.respond(body)
                try:
                    self.send_response(status)
                    for key, value in {"Content-Length": str(len(raw)), **headers}.items():
                        self.send_header(key, value)
                    self.end_headers()
                    self.wfile.write(raw)
                except (BrokenPipeError, ConnectionResetError):
                    pass

            def log_message(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond(self, body: dict) -> tuple[int, dict, bytes]:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            delay = self._jitter.random() * 2 * self.latency_seconds
        time.sleep(delay)
        if self.fault is not None:
            made = self.fault(number, body)
            if isinstance(made, (int, float)):
                time.sleep(made)
            elif made is not None:
                return made
        text = body["messages"][-1]["content"]
        answer = completion(score=probability(text)) if body.get("logprobs") else completion(text=generation(text))
        return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def probability(prompt: str) -> float:
    """Near 1 when the passage holds the cue of the question, else low; a little noise that depends on the text alone."""
    passage, _, question = prompt.rpartition(">>>")
    passage = passage.rpartition("<<<")[2]
    noise = int(hashlib.sha256(passage.encode()).hexdigest(), 16) % 100 / 1000
    return next((0.85 + noise for key, cue in CUES.items() if key in question and cue in passage), 0.05 + noise)


def generation(prompt: str) -> str:
    """A question, thoughts and an answer in whichever tags the prompt asks for, made from the text it shows."""
    passage = prompt.rpartition("<<<")[2].partition(">>>")[0].split()
    words = " ".join(passage[:60]) or "nothing"
    parts = {"question": f"What is asked in: {' '.join(passage[:12])}?", "thoughts": words, "answer": " ".join(passage[-6:])}
    wanted = [tag for tag in parts if f"<{tag}>" in prompt]
    return "\n".join(f"<{tag}>{parts[tag]}</{tag}>" for tag in wanted)


def completion(text: str = "Yes", score: float | None = None) -> dict:
    """The JSON of a chat completion."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if score is not None:
        top = [{"token": "Yes", "logprob": math.log(score * 0.98)}, {"token": " no", "logprob": math.log((1 - score) * 0.98)}]
        choice["logprobs"] = {"content": [{"token": "Yes", "logprob": top[0]["logprob"], "top_logprobs": top}]}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": max(len(text.split()), 1)}}


if __name__ == "__main__":
    with Endpoint() as server:
        print(server.url, flush=True)
        time.sleep(3600)
