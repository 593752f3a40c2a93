"""What a visitor can mend, in words."""

from ..messages import is_raised_here

_NAMES = {"the video file object": "the clip"}  # of what decoders were given, for those who uploaded it


def in_words(error: ValueError) -> str:
    """Return what was wanted and what came, where an error is about what a visitor has sent.

    Raises:
        ValueError: the error itself, where it is a mistake of the program.
    """
    if not is_raised_here(error):
        raise error
    text = " ".join(str(error).split())
    for name, shown in _NAMES.items():
        text = text.replace(name, shown)
    return text[:1].upper() + text[1:]
