"""The places of a chat's answers in its text, whatever chat template has written it."""

from collections.abc import Callable, Mapping, Sequence
from os.path import commonprefix
from typing import Any

Span = tuple[int, int]
Replacement = Mapping[str, Span]


def answer_spans(
    chat: Sequence[Mapping[str, Any]], render: Callable[[Sequence[Any], bool], str], closing: str = ""
) -> list[Span]:
    """Find the answers of a chat in its text: each is the text behind its prompt.

    Args:
        chat: messages with a `role`.
        render: writes messages as text, with the prompt for an answer behind them if its second argument is true.
        closing: text behind a whole chat but not behind each turn, as the end token in some templates.

    Returns:
        For each turn of the assistant, its end included, the first character and the one after its last.

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
            raise ValueError("a chat must begin with a question, got an answer")
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
    """Return 1 for each token that overlaps a span of the text, 0 for the others.

    Args:
        spans: in the text before its placeholders were replaced.
        offsets: of each token in the text after that.
        replacements: `span` of each placeholder before, and `new_span` of its replacement, in order.
    """
    marks = [0] * len(offsets)
    for start, end in spans:
        first = _place_after(start, replacements)
        last = _place_after(end, replacements)
        for number, (begins, ends) in enumerate(offsets):
            if begins < last and ends > first:
                marks[number] = 1
    return marks


def token_spans(
    chat: Sequence[Mapping[str, Any]],
    whole: Sequence[int],
    encode: Callable[[Sequence[Any], bool], Sequence[int]],
    closing: int | None = None,
) -> list[Span]:
    """Find the answers of a chat in its tokens, as `answer_spans` finds them in its text.

    Args:
        chat: messages with a `role`.
        whole: tokens of the chat.
        encode: returns the tokens of messages, with a prompt for an answer behind them if its second argument is true.
        closing: token behind a whole chat but not behind each turn.

    Returns:
        For each turn of the assistant, the first token and the one after its last.

    Raises:
        ValueError: if the tokens of the chat do not begin with those of a prompt or of its answered turns.
    """
    spans = []
    for number, message in enumerate(chat):
        if message["role"] != "assistant":
            continue
        prompt = [*encode(chat[:number], True)]
        answered = [*encode(chat[: number + 1], False)]
        if answered[-1] == closing and answered != [*whole[: len(answered)]]:
            answered.pop()
        for beginning, name in ((prompt, "the prompt for each answer"), (answered, "its turns up to each answer")):
            if [*whole[: len(beginning)]] != beginning:
                raise ValueError(
                    f"the tokens of a chat must begin with those of {name}, got {len(beginning)} others: let the chat "
                    "template mark answers by a generation block"
                )
        spans.append((len(prompt), len(answered)))
    return spans


def offsets_before(changes: Sequence[Mapping[str, Any]], times: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """Bring replacements in a prompt with times to the prompt before, in which each time is then a replacement, too.

    Args:
        changes: of the pictures, in order: `span`, `new_span` and `replacement`.
        times: of each picture, or of none: its place in the prompt before, and its text.
    """
    if not times:
        return [dict(change) for change in changes]
    moved = []
    added = 0  # characters of times up to here
    gained = 0  # characters of pictures up to here, beyond their placeholders
    for change, (place, text) in zip(changes, times, strict=True):
        start, end = change["span"]
        moved.append({**change, "span": (start - added, end - added)})
        gained += len(change["replacement"]) - (end - start)
        first = place + added + gained
        added += len(text)
        moved.append(
            {
                "type": "time",
                "span": (place, place),
                "new_span": (first, first + len(text)),
                "text": "",
                "replacement": text,
            }
        )
    return moved


def check_unchanged(prompt: str, changes: Sequence[Mapping[str, Any]], offsets: Sequence[Span]) -> None:
    """Raise a `ValueError` if more than placeholders was replaced in a prompt, which moves all places behind.

    Args:
        prompt: before placeholders were replaced.
        changes: of the pictures: `text` and `replacement`.
        offsets: of each token after that.
    """
    length = len(prompt)
    for change in changes:
        length += len(change["replacement"]) - len(change["text"])
    end = max(int(last) for _, last in offsets)
    if end > length:
        raise ValueError(
            "the base must add nothing but pictures to a prompt whose offsets are wanted, as of marked answers, "
            f"got {end - length} characters more"
        )


def _place_after(place: int, replacements: Sequence[Replacement]) -> int:
    """Return the position, after all replacements, of a place of the text outside of placeholders."""
    gained = 0
    for replacement in replacements:
        if replacement["span"][1] <= place:
            gained = replacement["new_span"][1] - replacement["span"][1]
    return place + gained


__all__ = ["answer_spans", "check_unchanged", "mark_tokens", "offsets_before", "token_spans"]
