"""What can go wrong on the way to a Hub, on purpose."""

import threading
from dataclasses import dataclass, field

LONGEST_HOLD = 60.0  # seconds; a test that forgets to release fails instead of hanging


class Cut(Exception):
    """The connection ends here."""


@dataclass
class Fault:
    """What happens to requests of one route.

    Args:
        route: name of the function in `routes.py`.
        times: requests that it happens to.
        skip: requests before them that nothing happens to.
        status: answer with this instead of doing what was asked.
        cut_request: read this many bytes of the request's body, then end the connection.
        cut_response: do what was asked, send this many bytes of the answer's body, then end the connection.
        held: wait before doing what was asked until `release` or for so many seconds.
    """

    route: str
    times: int = 1
    skip: int = 0
    status: int | None = None
    cut_request: int | None = None
    cut_response: int | None = None
    held: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Let held requests go on."""
        self.released.set()

    def wait_until_reached(self) -> None:
        """Wait for the first request that this happens to."""
        assert self.reached.wait(LONGEST_HOLD), f"no request came to {self.route!r}"


class Faults:
    """The faults that wait for their requests; each method adds one and returns it."""

    def __init__(self, routes: set[str]) -> None:
        self._routes = routes
        self._pending: list[Fault] = []
        self._added: list[Fault] = []
        self._lock = threading.Lock()

    def fail(self, route: str, status: int = 500, times: int = 1, skip: int = 0) -> Fault:
        """Answer with an error instead of doing what was asked."""
        return self.add(Fault(route, times, skip, status=status))

    def cut_request(self, route: str, after: int, times: int = 1, skip: int = 0) -> Fault:
        """End the connection when so many bytes of the request's body have arrived; nothing is done."""
        return self.add(Fault(route, times, skip, cut_request=after))

    def cut_response(self, route: str, after: int, times: int = 1, skip: int = 0) -> Fault:
        """Do what was asked, and end the connection when so many bytes of the answer's body have been sent."""
        return self.add(Fault(route, times, skip, cut_response=after))

    def hold(self, route: str, seconds: float = LONGEST_HOLD, times: int = 1, skip: int = 0) -> Fault:
        """Let requests wait until `release()`, at most so many seconds."""
        return self.add(Fault(route, times, skip, held=seconds))

    def add(self, fault: Fault) -> Fault:
        """Let a fault wait for its request."""
        assert fault.route in self._routes, f"there is no route {fault.route!r}, only {sorted(self._routes)}"
        with self._lock:
            self._pending.append(fault)
            self._added.append(fault)
        return fault

    def take(self, route: str) -> Fault | None:
        """Take the fault that happens to the request that has come to a route."""
        with self._lock:
            for fault in self._pending:
                if fault.route == route:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    if not fault.times:
                        self._pending.remove(fault)
                    fault.reached.set()
                    return fault
        return None

    def clear(self) -> list[Fault]:
        """Forget and release all; return those whose requests did not all come."""
        with self._lock:
            pending, added = self._pending, self._added
            self._pending, self._added = [], []
        for fault in added:
            fault.release()
        return pending
