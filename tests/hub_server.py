"""A small model hub on loopback: what `huggingface_hub` asks for when a folder is pushed, and a record of all of it."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

USER, TOKEN = "ann", "h" + "f_" + "aB3x" * 9
LARGE = 1_000  # bytes from which a file goes through LFS here, whatever it is


@dataclass
class Repo:
    """A repo as it stands."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


@dataclass
class Hub:
    """Everything that was asked of the server, and what it holds."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # sha256 to content
    requests: list[dict] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)  # a pattern of `METHOD path` to the status that it gets
    gated: set[str] = field(default_factory=set)  # repos that ask for consent that the user has not given
    cut: int = 0  # so many uploads are cut off in the middle

    def asked(self, pattern: str) -> list[dict]:
        """The requests whose `METHOD path` begins as `pattern` says."""
        return [r for r in self.requests if re.match(pattern, r["line"])]


@contextmanager
def running():
    """A hub with one user and one token, until the end of the block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Answering,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Answering(BaseHTTPRequestHandler):
    """The answers, in the words of the hub's API."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer()

    do_POST = do_PUT = do_GET

    def _answer(self):
        path = urlsplit(self.path).path
        line = f"{self.command} {path}"
        if self.command == "PUT" and self.hub.cut:
            self.hub.cut -= 1
            self.hub.requests.append(self._record(line, self.rfile.read(10)))
            self.close_connection = True
            self.connection.close()
            return
        body = self._body()
        self.hub.requests.append(self._record(line, body))
        status = next((s for pattern, s in self.hub.refuse.items() if re.match(pattern, line)), None)
        if status:
            return self._send(status, {"error": "no"})
        # an upload goes to a storage that knows its address and no token
        if not path.startswith("/storage/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        for pattern, handle in self.ROUTES.items():
            found = re.fullmatch(pattern, line)
            if found:
                return handle(self, body, *found.groups())
        return self._send(404, {"error": "not found"})

    def _record(self, line: str, body: bytes) -> dict:
        return {
            "line": line,
            "path": self.path,
            "headers": {k.lower(): v for k, v in self.headers.items()},
            "body": body,
        }

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, status: int, data: dict, **headers):
        content = json.dumps(data).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _missing(self):
        self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

    def whoami(self, body):
        self._send(200, {"name": USER, "type": "user"})

    def info(self, body, name):
        repo = self.hub.repos.get(name)
        if name in self.hub.gated:
            return self._send(403, {"error": "gated"}, X_Error_Code="GatedRepo")
        if repo is None:
            return self._missing()
        files = [{"rfilename": file} for file in repo.files]
        sha = f"{repo.commits:040d}"
        return self._send(200, {"id": name, "private": repo.private, "siblings": files, "sha": sha, "tags": []})

    def create(self, body):
        asked = json.loads(body)
        owner = asked.get("organization") or USER
        if owner != USER:
            return self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repos:
            return self._send(409, {"error": "You already created this model repo"})
        self.hub.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        return self._send(200, {"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, body):
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body, name):
        files = [
            {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self._send(200, {"files": files})

    def batch(self, body, name):
        objects = []
        for one in json.loads(body)["objects"]:
            there = one["oid"] in self.hub.large
            action = {} if there else {"actions": {"upload": {"href": f"{self.hub.url}/storage/{one['oid']}"}}}
            objects.append(one | action)
        self._send(200, {"transfer": "basic", "objects": objects})

    def upload(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            return self._send(400, {"error": "wrong checksum"})
        self.hub.large[oid] = body
        return self._send(200, {})

    def commit(self, body, name):
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._missing()
        files = dict(repo.files)
        for step in (json.loads(line) for line in body.decode().splitlines()):
            value = step["value"]
            if step["key"] == "header" and value.get("parentCommit", f"{repo.commits:040d}") != f"{repo.commits:040d}":
                return self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
            if step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif step["key"] == "deletedFile":
                del files[value["path"]]
        repo.files, repo.commits = files, repo.commits + 1
        url = f"{self.hub.url}/{name}/commit/{repo.commits:040d}"
        return self._send(200, {"commitUrl": url, "commitOid": f"{repo.commits:040d}"})

    ROUTES = {
        r"GET /api/whoami-v2": whoami,
        r"POST /api/repos/create": create,
        r"POST /api/validate-yaml": validate,
        r"GET /api/models/([^/]+/[^/]+)": info,
        r"POST /api/models/([^/]+/[^/]+)/preupload/main": preupload,
        r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": batch,
        r"PUT /storage/(\w+)": upload,
        r"POST /api/models/([^/]+/[^/]+)/commit/main": commit,
    }
