"""A Hub on this machine: what the clients of the Hugging Face Hub ask for, over HTTP, with faults on request."""

import hashlib
import hmac
import secrets
import socket
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import file_routes  # noqa: F401 - registers its routes
import repository_routes  # noqa: F401 - registers its routes
from faults import Cut, Fault, Faults
from repositories import Refusal, Repository
from routing import ROUTES, Answer, Call, NotHere, Request, Route, User, find_route
from xet import XetFiles

API_HOST, STORAGE_HOST = "127.0.0.1", "localhost"  # two names of one machine are two origins for HTTP clients
VIEWER_HOST = f"datasets-server.{API_HOST}"  # what `datasets` makes of the first; a proxy must lead it here
ORIGINS = {API_HOST: "api", STORAGE_HOST: "storage", VIEWER_HOST: "viewer"}


class LoopbackHub:
    """The Hub of one test process.

    `url` is what `HF_ENDPOINT` must be. Three tokens are valid: `token` may write to `name/...` and `org/...`,
    `read_token` is of the same user and may not write, `other_token` is of another user, who may write to
    `other/...`. `requests` remembers what was asked; `unhandled` what no route answers; `leaks` what brought a token
    to another origin than `url`. `reset` forgets everything but the files of the Xet client, and makes new tokens, so
    that nobody answers a request that is still on its way.

    Args:
        bound: a socket that is bound to an address and does not listen yet.
        xet_folder: where the Xet client keeps its files.
    """

    def __init__(self, bound: socket.socket, xet_folder: Path) -> None:
        port = bound.getsockname()[1]
        self.url, self.storage_url = f"http://{API_HOST}:{port}", f"http://{STORAGE_HOST}:{port}"
        self.xet = XetFiles(xet_folder)
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self._signatures: set[str] = set()
        self._outdated: set[str] = set()
        self.reset()
        self._server = ThreadingHTTPServer((API_HOST, port), Connection, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = bound
        self._server.server_address = bound.getsockname()
        self._server.hub = self
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def reset(self) -> None:
        """Forget repositories, files, requests and faults; from now on, older tokens and links get no answer."""
        with self.lock:
            self._outdated |= {*self.users, *self._signatures}
            self._signatures = set()
            self._key = secrets.token_bytes(16)
            self.token = new_token()
            self.read_token = new_token()
            self.other_token = new_token()
            self.users = {
                self.token: User("name", "write", ("org",)),
                self.read_token: User("name", "read", ("org",)),
                self.other_token: User("other", "write"),
            }
            self.repositories: dict[tuple[str, str], Repository] = {}
            self.large_files: dict[str, bytes] = {}
            self.requests: list[Request] = []
            self.unhandled: list[str] = []
            self.leaks: list[str] = []
            self.page_size = 1000
            self.faults = Faults({route.name for route in ROUTES})

    def is_outdated(self, path: str, headers: Message) -> bool:
        """Return whether a request is of a time before `reset`, as of a killed process: by its token or its link."""
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        signatures = parse_qs(urlsplit(path).query).get("signature", [])
        return not self._outdated.isdisjoint([token, *signatures])

    def close(self) -> None:
        """Stop listening."""
        self.faults.clear()
        self._server.shutdown()
        self._server.server_close()

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """Look at a repository past all rights: its `files(revision)`, `log()`, `head`, `branches`, `tags`."""
        return self.repositories[repo_type, repo_id]

    def create(
        self, repo_id: str, repo_type: str = "model", author: str = "name", private: bool = False
    ) -> Repository:
        """Add an empty repository."""
        repository = Repository(repo_id, repo_type, self.read_large, author, private)
        self.repositories[repo_type, repo_id] = repository
        return repository

    def gate(self, repo_id: str, repo_type: str = "model", granted: tuple[str, ...] = ()) -> None:
        """Show a repository to everybody, its files only to its owners and to the users named in `granted`."""
        repository = self.repository(repo_id, repo_type)
        repository.gated, repository.granted = "auto", set(granted)

    def asked(self, route: str) -> list[Request]:
        """Select the requests that one route has answered."""
        return [request for request in self.requests if request.route == route]

    def size_of_large(self, sha256: str) -> int | None:
        """Look up the size of a large file that has arrived, in either way."""
        content = self.large_files.get(sha256)
        return self.xet.size_of(sha256) if content is None else len(content)

    def read_large(self, sha256: str) -> bytes:
        """Read the content of a large file."""
        return self.large_files[sha256] if sha256 in self.large_files else self.xet.read(sha256)

    def storage_link(self, method: str, sha256: str) -> str:
        """Write an address at which whoever knows it may read or write one large file."""
        signature = self.signature(method, sha256)
        self._signatures.add(signature)
        return f"{self.storage_url}/large/{sha256}?signature={signature}"

    def signature(self, method: str, sha256: str) -> str:
        """Sign the right to read or write one large file."""
        return hmac.new(self._key, f"{method} {sha256}".encode(), hashlib.sha256).hexdigest()


class Connection(BaseHTTPRequestHandler):
    """One connection of a client: requests in, answers out, faults between."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def serve(self) -> None:
        """Answer one request."""
        hub: LoopbackHub = self.server.hub
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        request = Request(self.command, host, self.path, range=self.headers.get("Range"))
        request.authorized = "Authorization" in self.headers
        try:
            self.check_is_of_now(hub)
            hub.requests.append(request)
            answer, fault = self.answer(hub, request)
            request.status = answer.status
            self.write(answer, None if fault is None else fault.cut_response)
        except (Cut, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_CONNECT = serve  # names of http.server

    def check_is_of_now(self, hub: LoopbackHub) -> None:
        """End the connection of a client that another test has left."""
        if hub.is_outdated(self.path, self.headers):
            raise Cut

    def answer(self, hub: LoopbackHub, request: Request) -> tuple[Answer, Fault | None]:
        """Find the route of a request and let it answer."""
        split = urlsplit(self.path)
        origin = ORIGINS.get(request.host)
        if request.authorized and request.host not in (API_HOST, VIEWER_HOST):
            hub.leaks.append(f"{self.command} {request.host} {split.path}")
        found = find_route(origin, self.command, split.path)
        fault = None
        if found is not None:
            request.route = found[0].name
            fault = hub.faults.take(request.route)
        body = self.read_body(request, None if fault is None else fault.cut_request)
        if found is None:
            hub.unhandled.append(f"{self.command} {request.host} {self.path}")
            return Answer.json({"error": "this Hub has no such route"}, 501), None
        if fault is not None and fault.held:
            fault.released.wait(fault.held)
        if fault is not None and fault.status is not None:
            return Answer.json({"error": "this was asked for by a test"}, fault.status), fault
        route, names = found
        names = {name: unquote(value or "") for name, value in names.items()}
        query = parse_qs(split.query, keep_blank_values=True)
        try:
            user = None if origin == "storage" else self.user(hub)
            request.user = user.name if user else None
            call = Call(hub, self.command, split.path, names, query, self.headers, body, user)
            return self.answer_call(route, call), fault
        except Refusal as refusal:
            return refused(refusal), fault

    def answer_call(self, route: Route, call: Call) -> Answer:
        """Let a route answer; a mistake of the route itself is as bad as a missing route."""
        try:
            with call.hub.lock:
                self.check_is_of_now(call.hub)
                return route.answer(call)
        except NotHere as missing:
            call.hub.unhandled.append(f"{call.method} {self.path}: {missing}")
            return Answer.json({"error": str(missing)}, 501)
        except (Cut, Refusal):
            raise
        except Exception as error:
            call.hub.unhandled.append(f"{call.method} {self.path}: {error!r}")
            return Answer.json({"error": repr(error)}, 501)

    def user(self, hub: LoopbackHub) -> User | None:
        """Look up whose token came with the request."""
        header = self.headers.get("Authorization")
        if header is None:
            return None
        user = hub.users.get(header.removeprefix("Bearer "))
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return user

    def read_body(self, request: Request, cut: int | None) -> bytes:
        """Read the body of the request, or the beginning of it."""
        assert "Transfer-Encoding" not in self.headers, "no client has sent its body in chunks so far"
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length if cut is None else min(cut, length))
        request.received = len(body)
        if cut is not None or len(body) < length:
            raise Cut
        return body

    def write(self, answer: Answer, cut: int | None) -> None:
        """Send an answer, or the beginning of it."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        if cut == 0:
            raise Cut
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut])
        self.wfile.flush()
        if cut is not None:
            raise Cut

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `LoopbackHub.requests` remembers."""


def new_token() -> str:
    """Make a token that no process has been told before."""
    return "hf_" + secrets.token_hex(17)


def refused(refusal: Refusal) -> Answer:
    """Write a refusal as the Hub does."""
    headers = {"X-Error-Message": refusal.message, **refusal.headers}
    if refusal.code is not None:
        headers["X-Error-Code"] = refusal.code
    return Answer.json({"error": refusal.message, **refusal.body}, refusal.status, headers)
