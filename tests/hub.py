"""A model hub for tests: real HTTP, tiny checkpoints under true names.

    with Hub(repositories) as hub:
        ...  # clients with HF_ENDPOINT=hub.url
        hub.cut("model.safetensors", after=1000)
    assert hub.asked("model.safetensors") == 2

It answers what ``huggingface_hub``, ``datasets`` and SAELens ask of
huggingface.co: information on a repository, its tree, and its files, of
which the large ones (LFS) lie behind a redirect, in ranges if wanted. Names
moved to an organisation are redirected too. The repositories themselves are
made in ``tests.checkpoints``.
"""

import hashlib
import http.server
import json
import re
import socket
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

LFS = (".safetensors", ".bin", ".npz", ".parquet", ".zst")
MOVED = {
    "gpt2": "openai-community/gpt2",
    "distilgpt2": "distilbert/distilgpt2",
}
API = re.compile(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info)"
                 r"/([^/]+)(?:/(.*))?)?$")  # fmt: skip
RESOLVE = re.compile(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)$")


@dataclass
class Repository:
    """A repository: its files by path, and what its card says."""

    files: dict[str, bytes]
    licence: str = "mit"
    token: str | None = None  # it is gated: only with this token
    kind: str = "models"  # or "datasets"

    @property
    def commit(self) -> str:
        """40 hexadecimal digits, from the content."""
        content = [[p, git_sha(b)] for p, b in sorted(self.files.items())]
        return hashlib.sha1(json.dumps(content).encode()).hexdigest()


def git_sha(content: bytes) -> str:
    """The name git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str) -> bool:
    """Whether the hub keeps such a file apart."""
    return path.endswith(LFS)


def etag(path: str, content: bytes) -> str:
    """sha256 of an LFS file, git's name of any other."""
    if is_lfs(path):
        return hashlib.sha256(content).hexdigest()
    return git_sha(content)


@dataclass
class Fault:
    """What goes wrong with the files whose path ends with ``ending``."""

    ending: str
    times: int  # how often yet
    after: int | None = None  # bytes sent before the connection is cut
    seconds: float = 0.0  # wait in the middle of the file
    flip: bool = False  # another byte than was announced
    used: int = field(default=0)


class Hub:
    """The server; ``requests`` lists (method, path, Range header)."""

    def __init__(self, repositories: dict[str, Repository]):
        self.repositories = dict(repositories)
        self.requests: list[tuple[str, str, str]] = []
        self.faults: list[Fault] = []
        self.status = 0  # answer everything with this status, if not 0
        self.pause = 0.0  # seconds before every answer
        self.stopping = threading.Event()

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), Handler
        )
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # As on the real one, large files lie on another host.
        self.elsewhere = self.url.replace("127.0.0.1", "localhost")
        threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        ).start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    def cut(self, ending: str, after: int, times: int = 1) -> None:
        """Close the connection after so many bytes of a file."""
        self.faults.append(Fault(ending, times, after=after))

    def stall(self, ending: str, after: int, seconds: float) -> None:
        """Send so many bytes, then nothing for a while."""
        self.faults.append(Fault(ending, 1, after, seconds))

    def corrupt(self, ending: str, times: int = 1) -> None:
        """Send another byte than the one the hash is of."""
        self.faults.append(Fault(ending, times, flip=True))

    def reset(self) -> None:
        """No faults, no requests."""
        self.faults, self.status, self.pause = [], 0, 0.0
        self.requests.clear()

    def asked(self, ending: str, method: str = "GET") -> int:
        """How often a path with this end was asked for."""
        return sum(
            how == method and path.endswith(ending)
            for how, path, _ in self.requests
        )

    def fault(self, path: str) -> Fault | None:
        """The fault that a file meets now, if any."""
        for found in self.faults:
            if path.endswith(found.ending) and found.used < found.times:
                found.used += 1
                return found
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.form = urllib.parse.parse_qs(self.rfile.read(length).decode())
        self._answer()

    def _answer(self) -> None:
        hub, url = self.server_hub, urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        self.query = urllib.parse.parse_qs(url.query)
        ranged = self.headers.get("Range", "")
        hub.requests.append((self.command, path, ranged))
        hub.stopping.wait(hub.pause)
        if hub.status:
            self._json({"error": "scripted"}, hub.status)
        elif path.startswith("/cdn/"):
            self._file(*path.removeprefix("/cdn/").split("/", 1))
        elif found := API.match(path):
            self._api(*found.groups())
        elif found := RESOLVE.match(path):
            self._resolve(*found.groups())
        else:
            self._json({"error": "nothing is here"}, 404)

    def _repository(self, kind: str, name: str) -> Repository | None:
        """The repository, or None once something else was answered."""
        if name in MOVED:
            moved = self.path.replace(name, MOVED[name], 1)
            self._send(307, b"", {"Location": moved})
            return None
        found = self.server_hub.repositories.get(name)
        if found is None or found.kind != kind:
            error = {"X-Error-Code": "RepoNotFound"}
            self._json({"error": "Repository not found"}, 401, error)
            return None
        return found

    def _api(self, kind, name, what, revision, within) -> None:
        repo = self._repository(kind, name)
        if repo is None:
            return
        if not self._revision(repo, revision or "main"):
            return
        if what == "tree":
            self._json(list(_tree(repo, within or "")))
        elif what == "paths-info":
            wanted = self.form.get("paths", [])
            entries = _tree(repo, "")
            self._json([e for e in entries if e["path"] in wanted])
        else:
            self._json(_information(name, repo, "blobs" in self.query))

    def _revision(self, repo: Repository, revision: str) -> bool:
        if revision in ("main", repo.commit):
            return True
        error = {"X-Error-Code": "RevisionNotFound"}
        self._json({"error": "no such revision"}, 404, error)
        return False

    def _resolve(self, data, name, revision, path) -> None:
        repo = self._repository("datasets" if data else "models", name)
        if repo is None or not self._revision(repo, revision):
            return
        commit = {"X-Repo-Commit": repo.commit}
        given = self.headers.get("Authorization", "")
        if repo.token and given != f"Bearer {repo.token}":
            error = {"X-Error-Code": "GatedRepo"}
            status = 403 if given else 401
            self._json({"error": "restricted"}, status, error | commit)
        elif path not in repo.files:
            error = {"X-Error-Code": "EntryNotFound"}
            self._json({"error": "Entry not found"}, 404, error | commit)
        elif is_lfs(path):
            content = repo.files[path]
            self._send(302, b"", commit | {
                "Location": f"{self.server_hub.elsewhere}/cdn/{name}:{path}",
                "X-Linked-Etag": f'"{etag(path, content)}"',
                "X-Linked-Size": str(len(content)),
            })  # fmt: skip
        else:
            self._content(path, repo.files[path], commit)

    def _file(self, *parts) -> None:
        name, _, path = "/".join(parts).partition(":")
        content = self.server_hub.repositories[name].files[path]
        self._content(path, content, {})

    def _content(self, path: str, content: bytes, headers: dict) -> None:
        headers["ETag"] = f'"{etag(path, content)}"'
        headers["Accept-Ranges"] = "bytes"
        fault = self.command == "GET" and self.server_hub.fault(path)
        if fault and fault.flip:
            content = content[:-1] + bytes([content[-1] ^ 1])
        status, size = 200, len(content)
        asked = self.headers.get("Range", "")
        if found := re.match(r"bytes=(\d+)-(\d*)", asked):
            first, last = int(found[1]), int(found[2] or size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
            status, content = 206, content[first : last + 1]
        self._send(status, content, headers, fault or None)

    def _json(self, value, status: int = 200, headers=None) -> None:
        kind = {"Content-Type": "application/json"}
        self._send(status, json.dumps(value).encode(), kind | (headers or {}))

    def _send(self, status, content: bytes, headers: dict, fault=None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._body(content, fault)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _body(self, content: bytes, fault: Fault | None) -> None:
        if not fault or fault.after is None:
            self.wfile.write(content)
            return
        self.wfile.write(content[: fault.after])
        self.wfile.flush()
        if fault.seconds:
            until = time.monotonic() + fault.seconds
            while time.monotonic() < until:
                if self.server_hub.stopping.wait(0.05):
                    break
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def _information(name: str, repo: Repository, blobs: bool) -> dict:
    siblings = [{"rfilename": path} for path in sorted(repo.files)]
    if blobs:
        for sibling in siblings:
            content = repo.files[sibling["rfilename"]]
            sibling |= {"size": len(content), "blobId": git_sha(content)}
            if is_lfs(sibling["rfilename"]):
                sibling["lfs"] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size": len(content), "pointerSize": 130,
                }  # fmt: skip
    return {
        "_id": repo.commit[:24], "id": name, "modelId": name,
        "author": name.split("/")[0], "sha": repo.commit, "private": False,
        "disabled": False, "downloads": 0, "likes": 0,
        "gated": "manual" if repo.token else False,
        "tags": [f"license:{repo.licence}"],
        "cardData": {"license": repo.licence}, "siblings": siblings,
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
    }  # fmt: skip


def _tree(repo: Repository, within: str):
    folders = set()
    for path, content in sorted(repo.files.items()):
        if not path.startswith(within):
            continue
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in folders:
                folders.add(folder)
                oid = hashlib.sha1(folder.encode()).hexdigest()
                yield {"type": "directory", "oid": oid, "size": 0,
                       "path": folder}  # fmt: skip
        entry = {"type": "file", "oid": git_sha(content),
                 "size": len(content), "path": path}  # fmt: skip
        if is_lfs(path):
            sha = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha, "size": len(content),
                            "pointerSize": 130}  # fmt: skip
        yield entry
