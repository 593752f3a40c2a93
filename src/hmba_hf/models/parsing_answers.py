"""Where the answers of a chat stand in its text, whatever chat template has written it."""

from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

Span = tuple[int, int]
Replacement = Mapping[str, Span]


def answer_spans(
    chat: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Any], bool], str], closing: str = ""
) -> list[Span]:
    """Find the answers of a chat in its text: each is what the text has more than the prompt that asks for it.

    Args:
        chat: messages with a `role`.
        render: writes messages as text, the prompt for an answer behind them if its second argument is true.
        closing: what may stand behind a chat instead of each turn, as the end token does in some templates.

    Returns:
        The first character of each turn of the assistant and the one after its last, the end of the turn included.

    Raises:
        ValueError: if the text with an answer does not begin with its prompt, if later turns change it, or if there
            is no question.
    """
    text = render(chat, False)
    spans = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        if number == 0:
            raise ValueError("a chat to learn from must begin with a question, got an answer")
        prompt = render(chat[:number], True)
        answered = render(chat[: number + 1], False)
        if not text.startswith(answered) and text.endswith(closing):
            answered = answered.removesuffix(closing)
        _check_beginning(answered, prompt, "an answered chat", "the prompt for the answer")
        _check_beginning(text, answered, "a whole chat", "its turns up to each answer")
        spans.append((len(prompt), len(answered)))
    return spans


def _check_beginning(text: str, beginning: str, name: str, expected: str) -> None:
    if text.startswith(beginning):
        return
    same = len(commonprefix([text, beginning]))
    raise ValueError(
        f"the chat template must write {name} so that it begins with {expected}, or mark answers by a generation "
        f"block, got {text[same : same + 40]!r} in the place of {beginning[same : same + 40]!r}"
    )


def mark_tokens(spans: Sequence[Span], offsets: Sequence[Span], replacements: Sequence[Replacement]) -> list[int]:
    """Mark with 1 the tokens that spans of a text reach, with 0 the others.

    Args:
        spans: in the text before its placeholders were replaced.
        offsets: of each token in the text after that.
        replacements: `span` of each placeholder before, and `new_span` of what stands there after, in order.
    """
    marks = [0] * len(offsets)
    for start, end in spans:
        first = _place_after(start, replacements)
        last = _place_after(end, replacements)
        for number, (begins, ends) in enumerate(offsets):
            if begins < last and ends > first:
                marks[number] = 1
    return marks


def _place_after(place: int, replacements: Sequence[Replacement]) -> int:
    """Return where a place of the text, outside of placeholders, lies after their replacement."""
    gained = 0
    for replacement in replacements:
        if replacement["span"][1] <= place:
            gained = replacement["new_span"][1] - replacement["span"][1]
    return place + gained


__all__ = ["answer_spans", "mark_tokens"]
