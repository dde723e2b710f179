"""A hub on loopback: as much of the Hugging Face API as listing and range-reading a dataset takes. Point HF_ENDPOINT at `url`."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.endpoint import Server

REPOSITORY_INFO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?")
PATHS_INFO = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)")
RESOLVE = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


class Hub:
    """Serves `files` (path -> bytes) as dataset `repository` at one commit; files below `plain` are not in LFS.

    `fault(method, path)` may return a status to answer instead. `requests` and `bytes_sent` say what was asked for.
    """

    def __init__(
        self, repository: str, files: dict[str, bytes], fault: Callable[[str, str], int | None] | None = None, plain: str = "-"
    ) -> None:
        self.repository, self.files, self.fault, self.plain = repository, files, fault, plain
        self.commit = hashlib.sha1(
            json.dumps({path: hashlib.sha256(data).hexdigest() for path, data in files.items()}).encode()
        ).hexdigest()
        self.requests: list[str] = []
        self.bytes_sent = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                status, headers, data = hub.respond(self.command, path, body, self.headers.get("Range"))
                self.send_response(status)
                for key, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_HEAD = do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def respond(self, method: str, path: str, body: bytes, span: str | None) -> tuple[int, dict[str, str], bytes]:
        status = self.fault(method, path) if self.fault else None
        if status is not None:
            return status, {}, b"{}"
        found = next((match for pattern in (TREE, PATHS_INFO, RESOLVE, REPOSITORY_INFO) if (match := pattern.fullmatch(path))), None)
        if found is None or found["repo"] != self.repository:
            return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b'{"error": "Repository not found"}'
        if found["revision"] not in (None, "main", self.commit):
            return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b'{"error": "Invalid rev id"}'
        if found.re is RESOLVE:
            return self._file(found["path"], span)
        if found.re is REPOSITORY_INFO:
            return self._json(
                {"id": self.repository, "sha": self.commit, "siblings": [self._sibling(name) for name in self.files], "tags": []}
            )
        if found.re is PATHS_INFO:
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            return self._json([self._entry(name) for name in asked if name in self.files])
        below = f"{found['path']}/" if found["path"] else ""
        return self._json([self._entry(name) for name in self.files if name.startswith(below)])

    def sha256(self, path: str) -> str:
        return hashlib.sha256(self.files[path]).hexdigest()

    def blob(self, path: str) -> str:
        return hashlib.sha1(self.files[path]).hexdigest()

    def _sibling(self, path: str) -> dict[str, Any]:
        size = len(self.files[path])
        lfs = {} if path.startswith(self.plain) else {"lfs": {"sha256": self.sha256(path), "size": size, "pointerSize": 130}}
        return {"rfilename": path, "size": size, "blobId": self.blob(path), **lfs}

    def _entry(self, path: str) -> dict[str, Any]:
        size = len(self.files[path])
        lfs = {} if path.startswith(self.plain) else {"lfs": {"oid": self.sha256(path), "size": size, "pointerSize": 130}}
        return {"type": "file", "path": path, "size": size, "oid": self.blob(path), **lfs}

    def _file(self, path: str, span: str | None) -> tuple[int, dict[str, str], bytes]:
        data = self.files.get(path)
        if data is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        headers = {"Accept-Ranges": "bytes", "ETag": f'"{self.sha256(path)}"', "X-Repo-Commit": self.commit}
        if span is None:
            self.bytes_sent += len(data)
            return 200, headers, data
        first, _, last = span.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) if last else len(data) - 1, len(data) - 1)
        if start >= len(data):
            return 416, {"Content-Range": f"bytes */{len(data)}"}, b""
        self.bytes_sent += end + 1 - start
        return 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1]

    @staticmethod
    def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def __enter__(self) -> "Hub":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


CREATE, VALIDATE = "/api/repos/create", "/api/validate-yaml"
PREUPLOAD = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/preupload/main")
COMMIT = re.compile(r"/api/datasets/(?P<repo>[^/]+/[^/]+)/commit/main")
LFS_BATCH = re.compile(r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
STORED = re.compile(r"/stored/(?P<oid>[0-9a-f]{64})")


class WritableHub(Hub):
    """A hub that also takes files: Parquet into large-file storage, the rest inside the commit. `commits` lists the paths of each."""

    def __init__(self, repository: str, fault: Callable[[str, str], int | None] | None = None) -> None:
        self.stored: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.exists = False
        self.created: dict[str, Any] = {}
        super().__init__(repository, {}, fault, plain="-")

    def respond(self, method: str, path: str, body: bytes, span: str | None) -> tuple[int, dict[str, str], bytes]:
        status = self.fault(method, path) if self.fault else None
        if status is not None:
            return status, {"Content-Type": "application/json"}, b'{"error": "told to fail"}'
        if path == CREATE:
            self.created = self.created or json.loads(body)
            status, self.exists = (409 if self.exists else 200), True
            return status, {"Content-Type": "application/json"}, json.dumps({"url": f"{self.url}/datasets/{self.repository}"}).encode()
        if path == VALIDATE:
            return self._json({"warnings": [], "errors": []})
        if PREUPLOAD.fullmatch(path):
            return self._json({"files": [self._mode(item["path"]) for item in json.loads(body)["files"]]})
        if LFS_BATCH.fullmatch(path):
            objects = json.loads(body)["objects"]
            return self._json({"transfer": "basic", "objects": [self._action(item) for item in objects]})
        if stored := STORED.fullmatch(path):
            self.stored[stored["oid"]] = body
            return 200, {}, b""
        if COMMIT.fullmatch(path):
            return self._commit([json.loads(line) for line in body.splitlines()])
        return super().respond(method, path, body, span)

    def _mode(self, path: str) -> dict[str, Any]:
        return {"path": path, "uploadMode": "lfs" if path.endswith(".parquet") else "regular", "shouldIgnore": False}

    def _action(self, item: dict[str, Any]) -> dict[str, Any]:
        upload = {} if item["oid"] in self.stored else {"actions": {"upload": {"href": f"{self.url}/stored/{item['oid']}"}}}
        return {"oid": item["oid"], "size": item["size"], **upload}

    def _commit(self, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        paths = []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
            else:
                continue
            paths.append(value["path"])
        self.commits.append(paths)
        return self._json({"commitUrl": f"{self.url}/datasets/{self.repository}/commit/{self.commit}", "commitOid": self.commit})

    def _entry(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        lfs = {"lfs": {"oid": self.sha256(path), "size": len(data), "pointerSize": 130}} if path.endswith(".parquet") else {}
        return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), **lfs}
