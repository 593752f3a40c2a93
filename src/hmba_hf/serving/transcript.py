"""The text of one answer while its tokens come: where it ends, and what of it may be shown already."""

from collections.abc import Callable, Collection, Sequence

_UNFINISHED = "\ufffd"  # stands for a letter of which some bytes have yet to come
_WINDOW = 16  # tokens whose text may depend on each other, and letters that they have at least


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
        self._settled = ""  # text of all tokens before the window
        self._start = 0  # of the window
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
        text = self._text_so_far().lstrip()
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

    def _text_so_far(self) -> str:
        """Decode the last tokens alone, behind the text of those before; at the end, all of them."""
        if self.finish_reason is not None:
            return self._decode(self.tokens)
        text = self._settled + self._decode(self.tokens[self._start :])
        if len(self.tokens) >= self._start + 2 * _WINDOW:
            self._move_window(text)
        return text

    def _move_window(self, text: str) -> None:
        """Let the window begin later, if its tokens have the same text by themselves.

        Letters of several tokens stay whole: a boundary lies beside a letter of ASCII, which is one by itself. In
        SentencePiece a byte that does not fit spoils all bytes beside it, but no such letter.
        """
        start = len(self.tokens) - _WINDOW
        last = self._decode(self.tokens[start:])
        settled = text.removesuffix(last)
        if len(last) >= _WINDOW and settled != text and (last[0].isascii() or settled[-1:].isascii()):
            self._settled = settled
            self._start = start

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
