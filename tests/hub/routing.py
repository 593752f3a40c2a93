"""Requests, answers, and which function answers which address."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from repositories import Refusal, Repository

if TYPE_CHECKING:
    from loopback_hub import LoopbackHub

# What a name in a pattern stands for; a revision is quoted, so that it has no slash.
PARTS = {"types": "models|datasets|spaces", "prefix": "(?:datasets/|spaces/)?", "id": "[^/]+/[^/]+", "path": ".+"}


@dataclass(frozen=True)
class User:
    """Who sends a token.

    Args:
        name: of the user.
        role: of the token, `"write"` or `"read"`.
        organizations: whose repositories are the user's too.
    """

    name: str
    role: str
    organizations: tuple[str, ...] = ()

    @property
    def namespaces(self) -> set[str]:
        """Whose repositories the user may read and, with a token for it, write."""
        return {self.name, *self.organizations}


@dataclass
class Request:
    """A request as it is remembered: never the token, only whose it was.

    Args:
        method, host, path: what was asked for; the path with its query.
        route: name of the function that answered.
        user: name of the user whose token came with it.
        authorized: whether any token came with it.
        range: the header of that name.
        received: bytes of its body.
        status: of the answer.
    """

    method: str
    host: str
    path: str
    route: str | None = None
    user: str | None = None
    authorized: bool = False
    range: str | None = None
    received: int = 0
    status: int | None = None


@dataclass
class Call:
    """What a route is asked: the parts of the path that its pattern names are in `names`."""

    hub: "LoopbackHub"
    method: str
    path: str
    names: dict[str, str]
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    user: User | None

    def json(self) -> Any:
        """Read the body."""
        return json.loads(self.body)

    @property
    def repo_type(self) -> str:
        """Which type of repository the address is about."""
        return (self.names.get("types") or self.names.get("prefix") or "models").rstrip("s/")

    @property
    def address(self) -> str:
        """Address of the repository for browsers."""
        prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"{self.hub.url}/{prefix}{self.names['id']}"

    def is_set(self, name: str) -> bool:
        """Whether the query has an option switched on."""
        return self.query.get(name, ["false"])[0].lower() in ("true", "1")


@dataclass
class Answer:
    """What a route answers."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        """Answer with a value."""
        return cls(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class NotHere(Exception):
    """A request that the real Hub answers and this one cannot: the test fails, as it would prove nothing."""


@dataclass(frozen=True)
class Route:
    """A method and a pattern of addresses, and the function that answers them."""

    origin: str
    method: str
    pattern: re.Pattern[str]
    answer: Callable[[Call], Answer]

    @property
    def name(self) -> str:
        """By which faults and the log of requests know the route."""
        return self.answer.__name__


ROUTES: list[Route] = []


def route(methods: str, pattern: str, origin: str = "api") -> Callable[[Callable[[Call], Answer]], Callable]:
    """Let a function answer some methods, such as `"GET HEAD"`, at addresses such as `/api/{types}/{id}/refs`."""

    def named(part: re.Match) -> str:
        return f"(?P<{part[1]}>{PARTS.get(part[1], '[^/]+')})"

    def register(answer: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
        compiled = re.compile(re.sub(r"\{(\w+)\}", named, pattern))
        ROUTES.extend(Route(origin, method, compiled, answer) for method in methods.split())
        return answer

    return register


def find_route(origin: str | None, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
    """Find who answers, and the parts of the path, still quoted."""
    for candidate in ROUTES:
        match = candidate.pattern.fullmatch(path)
        if match and (candidate.origin, candidate.method) == (origin, method):
            return candidate, match.groupdict()
    return None


def visible_repository(call: Call) -> Repository:
    """Find the repository of a call.

    Raises:
        Refusal: if there is none, or none that the user may know of.
    """
    repository = call.hub.repositories.get((call.repo_type, call.names["id"]))
    owned = repository is not None and call.user is not None and repository.namespace in call.user.namespaces
    if repository is None or (repository.private and not owned):
        # Differs: the Hub sends an anonymous client a 401 without the code. Its client recognises that by the address,
        # but only over https.
        raise Refusal(404 if call.user else 401, "Repository not found", "RepoNotFound")
    return repository


def readable_repository(call: Call) -> Repository:
    """Find the repository of a call whose files the user may read; refuses as the Hub does."""
    repository = visible_repository(call)
    names = {repository.namespace, *repository.granted}
    if repository.gated and not (call.user and names & {*call.user.namespaces, call.user.name}):
        message = f"Access to {repository.type} {repository.id} is restricted"
        if call.user is None:
            raise Refusal(401, f"{message}. You must be authenticated to access it.", "GatedRepo")
        raise Refusal(403, f"{message} and you are not in the authorized list.", "GatedRepo")
    return repository


def writable_repository(call: Call) -> Repository:
    """Find the repository of a call that the user may write; refuses as the Hub does."""
    repository = visible_repository(call)
    check_may_write(call, repository.namespace)
    return repository


def check_may_write(call: Call, namespace: str) -> User:
    """Refuse whoever may not write to a namespace."""
    if call.user is None:
        raise Refusal(401, "Invalid username or password.", "RepoNotFound" if "id" in call.names else None)
    if namespace not in call.user.namespaces:
        raise Refusal(403, f'You don\'t have the rights to write under the namespace "{namespace}"')
    if call.user.role != "write":
        raise Refusal(403, "You must use a write token to write to a repository")
    return call.user


def paged(call: Call, items: list[Any]) -> Answer:
    """Answer with one page of a list, and the address of the next page."""
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + call.hub.page_size
    headers = {}
    if end < len(items):
        query = urlencode({**call.query, "cursor": [end]}, doseq=True)
        headers["Link"] = f'<{call.hub.url}{call.path}?{query}>; rel="next"'
    return Answer.json(items[start:end], headers=headers)
