"""The text of one answer while its tokens come: where it ends, and what of it may be shown already."""

from collections.abc import Callable, Collection, Sequence

_UNFINISHED = "\ufffd"  # stands for a letter of which some bytes have yet to come


class Transcript:
    """One answer, token by token.

    What is shown is never taken back: letters that are not whole, spaces at the end and the beginning of a text that
    ends an answer wait for the next token. All pieces together are the text of the pipeline, up to the first stop.

    Args:
        decode: tokens to text, without special tokens.
        end_tokens: which end an answer.
        max_tokens: of the answer.
        stops: texts before which it ends.
        is_shown: whether its pieces are wanted; the text at the end is, in any case.

    Attributes:
        tokens: of the answer, with the one that ends it.
        text: as far as it may be shown; all of it once there is a `finish_reason`.
        finish_reason: `"stop"` or `"length"`, as OpenAI has them; `None` before the end.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        end_tokens: Collection[int],
        max_tokens: int,
        stops: Sequence[str] = (),
        is_shown: bool = False,
    ):
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self._decode = decode
        self._end_tokens = end_tokens
        self._max_tokens = max_tokens
        self._stops = stops
        self._is_read = bool(stops) or is_shown

    def add(self, token: int) -> str:
        """Take the next token; return what may be shown now, after all that was shown before."""
        self.tokens.append(token)
        if token in self._end_tokens:
            self.finish_reason = "stop"
        elif len(self.tokens) == self._max_tokens:
            self.finish_reason = "length"
        if not self._is_read and self.finish_reason is None:
            return ""
        text = self._decode(self.tokens).lstrip()
        end = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=None)
        if end is not None:
            self.finish_reason = "stop"
            text = text[:end]
        if self.finish_reason is None:
            text = self._without_beginning_of_stop(text.rstrip(_UNFINISHED)).rstrip()
        return self._show(text.rstrip())

    def cut(self) -> str:
        """End the answer where it is, as at its longest; return what had to wait."""
        self.finish_reason = self.finish_reason or "length"
        return self._show(self._decode(self.tokens).strip())

    def _show(self, text: str) -> str:
        piece = text[len(self.text) :]
        self.text += piece
        return piece

    def _without_beginning_of_stop(self, text: str) -> str:
        """Leave out the longest end of a text with which a stop begins."""
        waiting = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), waiting, -1):
                if text.endswith(stop[:length]):
                    waiting = length
                    break
        return text[: len(text) - waiting]
