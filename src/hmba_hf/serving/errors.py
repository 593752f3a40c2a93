"""Errors that a client gets, in the form of OpenAI's."""

from typing import Any

NOT_ALLOWED = 1008  # code with which a WebSocket is closed: against a rule of the server
# The type of an error by its status; a client's mistake otherwise.
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class RequestError(Exception):
    """What a client has asked and cannot have; it ends that request alone.

    Args:
        status: of HTTP.
        code: one word for programs.
        message: what was wanted and what came; it names no path of this machine.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after

    def as_json(self) -> dict[str, Any]:
        """Return the body of the error."""
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, usual)
        return {"error": {"message": str(self), "type": kind, "code": self.code, "param": None}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of its response."""
        if self.retry_after is None:
            return {}
        return {"Retry-After": str(self.retry_after)}


def too_large(what: str, limit: int) -> RequestError:
    """Return what a client is told that has sent more than `max_upload_bytes`."""
    return RequestError(413, "too_large", f"{what} must have at most max_upload_bytes={limit}, got more")


def late_answer() -> RequestError:
    """Return what a client is told whose answer takes longer than a request may."""
    return RequestError(504, "timeout", "an answer must be there within max_request_seconds, got none in time")


def internal_error() -> RequestError:
    """Return what a client is told of a mistake of ours: nothing, since the log has it."""
    return RequestError(500, "internal_error", "the request failed on the server's side; its log says why")
