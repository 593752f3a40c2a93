"""What a client may ask for: a chat in OpenAI's form, with videos, pictures and the moment that it is about."""

from typing import Annotated, Any, Literal

from ..installation import missing_extra
from .errors import RequestError

try:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
except ImportError as missing:
    raise missing_extra("`hmba serve` needs", "serve") from missing

_LONGEST_SHOWN = 80  # characters of a value in an error
_MOST_VALUES = 2**18  # of a body: each takes memory while it is read, however short it is
_MOST_TURNS = 1024
_MOST_PARTS = 256  # of a turn
_Stop = Annotated[str, Field(min_length=1, max_length=64)]


class Strict(BaseModel):
    """A field that nothing reads is refused, since it would change nothing."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="after")
    def _refuse_others(self) -> "Strict":
        # pydantic's own rule makes an error of each field, so that a million of them would fill the memory.
        if self.model_extra:
            raise ValueError(f"have no field {next(iter(self.model_extra))[:_LONGEST_SHOWN]!r}")
        return self


class Address(Strict):
    """Where a video or picture lies: a data URL, or an http(s) address of a public host."""

    url: str
    detail: str | None = None  # of OpenAI's pictures; the processor alone decides on sizes


class FileReference(Strict):
    """An uploaded file."""

    file_id: str


class TextPart(Strict):
    """A text."""

    type: Literal["text"]
    text: str


class VideoPart(Strict):
    """A video."""

    type: Literal["video_url"]
    video_url: Address


class PicturePart(Strict):
    """A picture, which is a clip of one frame."""

    type: Literal["image_url"]
    image_url: Address


class FilePart(Strict):
    """An uploaded video."""

    type: Literal["file"]
    file: FileReference


Part = Annotated[TextPart | VideoPart | PicturePart | FilePart, Field(discriminator="type")]


class Message(Strict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str | Annotated[list[Part], Field(max_length=_MOST_PARTS, fail_fast=True)]


class StreamOptions(Strict):
    """What a stream holds besides the answer."""

    include_usage: bool = False


class ChatRequest(Strict):
    """A request for a chat completion.

    Beside OpenAI's fields it has `timestamp`, the current moment in seconds of all videos, and `num_frames` in place
    of the processor's. `user` changes nothing. Without `temperature` and `top_p` the model's own generation config
    decides, as in the pipeline; a temperature of 0 is greedy.
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MOST_TURNS, fail_fast=True)]
    timestamp: float | None = Field(None, ge=0, allow_inf_nan=False)
    num_frames: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=4, fail_fast=True)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        """The texts before which an answer ends."""
        if isinstance(self.stop, str):
            return [self.stop]
        return self.stop or []


def read_request(body: bytes | bytearray) -> ChatRequest:
    """Read the body of a request.

    Raises:
        RequestError: with the first field that is not as it must be.
    """
    values = sum(body.count(sign) for sign in (b",", b"[", b"{"))
    if values > _MOST_VALUES:
        what = f"a request must have at most {_MOST_VALUES} commas and brackets, got {values}"
        raise RequestError(400, "invalid_request", what)
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(400, "invalid_request", first_mistake(error)) from error


def first_mistake(error: ValidationError) -> str:
    """Return what was wanted of the first wrong field, and what came."""
    first: Any = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"]) or "the body"
    got = first["input"]
    shown = type(got).__name__
    if not isinstance(got, dict | list):
        shown = repr(got)[:_LONGEST_SHOWN]
    wanted = first["msg"].removeprefix("Input should ").removeprefix("Value error, ")  # pydantic's, and ours
    if wanted == first["msg"]:
        wanted = f"be right ({wanted})"
    return f"{place} must {wanted}, got {shown}"
