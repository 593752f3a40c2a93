"""Counts of an endpoint in the text form of Prometheus; none holds a prompt, an answer, a name or a token."""

import threading
from collections import defaultdict
from collections.abc import Callable

_COUNTERS = {
    "hmba_requests_total": "Responses by route and status.",
    "hmba_request_seconds_total": "Seconds from requests to the ends of their responses, by route.",
    "hmba_prompt_tokens_total": "Tokens of the prompts of finished answers.",
    "hmba_answer_tokens_total": "Tokens of finished answers.",
    "hmba_batches_total": "Calls of the model for answers.",
    "hmba_batched_requests_total": "Requests in these calls.",
    "hmba_stream_frames_total": "Frames of cameras that have come.",
    "hmba_stream_frames_dropped_total": "Of these, those in whose place a newer one was read.",
    "hmba_stream_answers_total": "Answers to questions of cameras.",
}
_GAUGES = {
    "hmba_requests_open": "Requests that are read, wait or are answered.",
    "hmba_streams_open": "Cameras that are connected.",
    "hmba_model_queue": "Works that wait for the model.",
}


class Metrics:
    """Counters that any thread may raise, and gauges that are read when they are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._gauges: dict[str, Callable[[], int]] = {}

    def add(self, name: str, value: float = 1, **labels: str | int) -> None:
        """Raise a counter."""
        assert name in _COUNTERS, name
        written = ",".join(f'{label}="{text}"' for label, text in labels.items())
        with self._lock:
            self._counts[name, f"{{{written}}}" if written else ""] += value

    def watch(self, name: str, read: Callable[[], int]) -> None:
        """Let a gauge read its value by a function."""
        assert name in _GAUGES, name
        self._gauges[name] = read

    def text(self) -> str:
        """Write all of them."""
        with self._lock:
            counts = sorted(self._counts.items())
        lines = []
        for name, help_text in _COUNTERS.items():
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} counter"]
            lines += [f"{name}{labels} {value:.15g}" for (counted, labels), value in counts if counted == name]
        for name, read in self._gauges.items():
            lines += [f"# HELP {name} {_GAUGES[name]}", f"# TYPE {name} gauge", f"{name} {read()}"]
        return "\n".join(lines) + "\n"
