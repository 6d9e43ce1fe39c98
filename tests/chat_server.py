"""A chat server for tests: real HTTP, scripted answers.

    def answer(body, attempt):
        return reply({"text": "hello"}) if attempt > 1 else status(500)

    with ChatServer(answer) as server:
        ...  # ask a model with base_url=server.url
    assert [seen.attempt for seen in server.requests] == [1, 2]

It speaks ``POST /v1/chat/completions``. ``answer`` gets the request's JSON
body and which attempt at that same body this is, from 1, and returns one of
the actions below; ``ChatServer(lambda body, attempt: ...)`` may look at
``body["messages"]``, ``body["seed"]`` and so on to choose.
"""

import http.server
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Action = Callable[["_Handler"], None]
Answer = Callable[[dict, int], Action]


def reply(
    content: dict | str,
    *,
    finish: str = "stop",
    usage: tuple[int, int] | None = None,
    after: float = 0.0,
) -> Action:
    """A completion: a dict as JSON, a string as it is.

    ``finish`` is the finish reason ("length", "content_filter"); ``usage``
    is (prompt, completion) tokens, by default one for every four bytes;
    ``after`` is how many seconds it takes.
    """
    if not isinstance(content, str):
        content = json.dumps(content)
    return _completion({"content": content}, content, finish, usage, after)


def refusal(text: str) -> Action:
    """The model declines: ``message.refusal`` and no content."""
    message = {"content": None, "refusal": text}
    return _completion(message, text, "stop", None, 0.0)


def status(
    code: int, message: str = "scripted", headers: dict | None = None
) -> Action:
    """An error of the API: ``status(429, headers={"retry-after": "1"})``."""

    def act(handler: "_Handler") -> None:
        handler.send_json(code, {"error": {"message": message}}, headers)

    return act


def page(text: str) -> Action:
    """200 with a web page, as of a server that is no model's."""

    def act(handler: "_Handler") -> None:
        handler.send(200, text.encode(), "text/html")

    return act


def raw(body: dict) -> Action:
    """200 with a JSON body as given."""

    def act(handler: "_Handler") -> None:
        handler.send_json(200, body)

    return act


def hang(seconds: float = 60.0) -> Action:
    """Nothing for so long (or until the server closes), then a cut."""

    def act(handler: "_Handler") -> None:
        handler.server.closing.wait(seconds)
        handler.cut()

    return act


def drip(seconds: float = 60.0) -> Action:
    """A body that trickles in, a space at a time, and is never complete."""

    def act(handler: "_Handler") -> None:
        handler.start(200, 10**6)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not handler.server.closing.is_set():
            handler.wfile.write(b" ")
            time.sleep(0.05)
        handler.cut()

    return act


def cut() -> Action:
    """The connection breaks in the middle of the body."""

    def act(handler: "_Handler") -> None:
        handler.start(200, 1000)
        handler.wfile.write(b'{"choices": [')
        handler.cut()

    return act


@dataclass(frozen=True)
class Seen:
    """A request as it came; ``time`` is monotonic seconds."""

    body: dict
    attempt: int
    time: float
    authorization: str

    @property
    def user(self) -> str:
        """The content of the last message."""
        return self.body["messages"][-1]["content"]


class ChatServer:
    """The server, on a free port of 127.0.0.1 while the context lasts.

    ``url`` is the base URL to give a client; ``requests`` lists what came,
    in order; ``most_at_once`` is how many were being answered at once.
    Set ``answer`` anew to change its mind.
    """

    def __init__(self, answer: Answer):
        self.answer = answer
        self.requests: list[Seen] = []
        self.most_at_once = 0
        self._at_once = 0
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> "ChatServer":
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.script = self
        self._http.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def begin(self, body: dict, authorization: str) -> int:
        """Note a request; returns which attempt at this body it is."""
        text = json.dumps(body, sort_keys=True)
        with self._lock:
            self._attempts[text] += 1
            attempt = self._attempts[text]
            seen = Seen(body, attempt, time.monotonic(), authorization)
            self.requests.append(seen)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return attempt

    def end(self) -> None:
        """Note that a request has been dealt with."""
        with self._lock:
            self._at_once -= 1


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """A client that went away is part of the tests: say nothing."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = json.loads(self.rfile.read(length))
        if self.path != "/v1/chat/completions":
            return self.send_json(404, {"error": {"message": "no such path"}})
        script: ChatServer = self.server.script
        attempt = script.begin(body, self.headers.get("authorization", ""))
        self.body = body
        # Before the answer leaves: the client may be quick to send the next.
        self.done = _once(script.end)
        try:
            script.answer(body, attempt)(self)
        finally:
            self.done()

    def start(self, code: int, length: int, kind: str = "application/json",
              headers: dict | None = None) -> None:
        """Status line and headers."""
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def send(self, code: int, content: bytes, kind: str,
             headers: dict | None = None) -> None:
        """A whole response."""
        self.done()
        self.start(code, len(content), kind, headers)
        self.wfile.write(content)

    def send_json(self, code: int, body: dict,
                  headers: dict | None = None) -> None:
        """A whole JSON response."""
        content = json.dumps(body).encode()
        self.send(code, content, "application/json", headers)

    def cut(self) -> None:
        """Close the connection without another byte."""
        self.close_connection = True
        self.done()
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        """Tests read ``requests``, not a log."""


def _completion(message, text, finish, usage, after) -> Action:
    def act(handler: _Handler) -> None:
        handler.server.closing.wait(after)
        sent = json.dumps(handler.body["messages"])
        prompt, completion = usage or (len(sent) // 4, len(text) // 4 + 1)
        choice = {"index": 0, "finish_reason": finish,
                  "message": {"role": "assistant", **message}}
        handler.send_json(200, {
            "id": "chatcmpl-test",
            "object": "chat.completion",
            "created": 0,
            "model": handler.body["model"],
            "choices": [choice],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
        })

    return act


def _once(function: Callable[[], None]) -> Callable[[], None]:
    left = [function]
    return lambda: left.pop()() if left else None
