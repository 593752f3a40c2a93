"""Several video streams of one model at once: frames of all cameras are encoded in one batch, and asked about in one.

Each stream holds and answers what it would alone, up to the rounding of batches.
"""

import copy
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..models.outputs_hmba import HMBAVideoFeatures
from .encoders import EncodedFrame, HMBAEncoder, read_options
from .frames import FrameError, KindChange, TimeJump, WindowFrame
from .watching import Answer

if TYPE_CHECKING:
    from .stream import VideoStream

Pushed = TypeVar("Pushed")
# A push in steps: yields frames to encode, takes each encoded, and returns what has come of it.
Pushing = Generator[Any, EncodedFrame | None, Pushed]


def push_together(
    streams: Sequence["VideoStream"], frames: Sequence[Any], timestamps: Sequence[float]
) -> list[bool | FrameError]:
    """Push a frame to each of several streams of one model, and encode those that are taken together.

    Any other error than a `FrameError`, such as one of the vision tower, leaves all streams as they were.

    Args:
        streams: each one once.
        frames, timestamps: one for each, as in `VideoStream.push`.

    Returns:
        For each stream what `push` returns, or the `FrameError` that it raises, which leaves the others alone.
    """
    return _push_each(streams, frames, timestamps, lambda stream, *frame: stream.pushing(*frame))


def push_or_restart(stream: "VideoStream", frame: Any, timestamp: float) -> str | None:
    """Push a frame to a stream, which starts anew where the clock jumps, and with a frame of another size or dtype.

    Returns:
        Why it has started anew, or `None`.

    Raises:
        FrameError: if the frame could not even be a first one, or has the time of the last one; the stream is left as
            it was.
    """
    (outcome,) = push_or_restart_together([stream], [frame], [timestamp])
    if isinstance(outcome, FrameError):
        raise outcome
    return outcome


def push_or_restart_together(
    streams: Sequence["VideoStream"], frames: Sequence[Any], timestamps: Sequence[float]
) -> list[str | None | FrameError]:
    """Push a frame to each of several streams as `push_together` does, and return what `push_or_restart` would."""
    return _push_each(streams, frames, timestamps, _pushing_or_restarting)


def _pushing_or_restarting(stream: "VideoStream", frame: Any, timestamp: float) -> Pushing[str | None]:
    try:
        yield from stream.pushing(frame, timestamp)
    except (KindChange, TimeJump) as error:
        why = str(error)
    else:
        return None
    stream.reset()
    yield from stream.pushing(frame, timestamp)
    return why


def _push_each(
    streams: Sequence["VideoStream"],
    frames: Sequence[Any],
    timestamps: Sequence[float],
    pushing: Callable[["VideoStream", Any, float], Pushing[Pushed]],
) -> list[Pushed | FrameError]:
    """Push frames to copies of streams, which take the place of the streams once every frame is encoded."""
    _check_one_model(streams)
    moved = [copy.copy(stream) for stream in streams]
    steps = [pushing(*pushed) for pushed in zip(moved, frames, timestamps, strict=True)]
    outcomes: dict[int, Pushed | FrameError] = {}
    encoded: dict[int, EncodedFrame | None] = dict.fromkeys(range(len(steps)))
    while encoded:
        wanted = {}
        for number, answer in encoded.items():
            try:
                wanted[number] = steps[number].send(answer)
            except StopIteration as end:
                outcomes[number] = end.value
            except FrameError as error:
                outcomes[number] = error
        encoded = {}
        if wanted:
            with torch.no_grad():
                encoded = dict(zip(wanted, streams[0]._encoder.encode(list(wanted.values())), strict=True))
    for number, stream in enumerate(streams):
        if not isinstance(outcomes[number], FrameError):
            vars(stream).update(vars(moved[number]))
    return [outcomes[number] for number in range(len(steps))]


def ask_together(streams: Sequence["VideoStream"], questions: Sequence[str], **generate_kwargs: Any) -> list[Answer]:
    """Ask a question about the current frame of each of several streams of one model.

    On a vision-language model they are asked one after the other, since each base packs its pictures in its own way.
    On a vision tower they are read in one batch, each prompt whole: the text before the video, which `VideoStream.ask`
    keeps as a cache, stands behind other padding in each batch.

    Args:
        streams: each one once.
        questions: one for each, as in `VideoStream.ask`.
        generate_kwargs: for `generate`, the same for all.

    Raises:
        ValueError: as `VideoStream.ask`.
    """
    _check_one_model(streams)
    pairs = list(zip(streams, questions, strict=True))
    if len(pairs) == 1 or not isinstance(streams[0]._encoder, HMBAEncoder):
        return [stream.ask(question, **generate_kwargs) for stream, question in pairs]
    pipeline = streams[0]._pipeline
    options = read_options(pipeline, generate_kwargs)
    adapt_together(streams)
    seen: list[Any] = [stream.features().pooler_output for stream in streams]
    inputs = [stream.write_prompt(question) for stream, question in pairs]
    filled = streams[0]._encoder.outputs_of(torch.cat(seen), options)
    outputs = pipeline.forward({"inputs": inputs}, generate_kwargs={**generate_kwargs, **filled})
    answers = []
    for number, stream in enumerate(streams):
        own = {name: outputs[name][number : number + 1] for name in ("answers", "frame_size")}
        answers.append({**pipeline.postprocess(own)[0], "timestamp": stream.timestamp})
    return answers


def adapt_together(streams: Sequence["VideoStream"]) -> None:
    """Compute the features of the current frames of several streams, those of windows together; see `features`."""
    alike: dict[Any, list[VideoStream]] = {}
    for stream in streams:
        if stream.mode == "window" and stream._window and stream._features is None:
            shape = stream._window[-1].rows.shape
            alike.setdefault((stream.num_frames, shape), []).append(stream)
    for group in alike.values():
        with torch.no_grad():
            found: Any = read_windows(group[0].model, [stream.window() for stream in group])
        attentions = found.adapter_attentions or {}
        for row, stream in enumerate(group):
            stream._features = HMBAVideoFeatures(
                last_hidden_state=found.last_hidden_state[row : row + 1],
                pooler_output=found.pooler_output[row : row + 1],
                adapter_attentions={name: of[row : row + 1] for name, of in attentions.items()},
            )


def read_windows(model: Any, windows: Sequence[Sequence[WindowFrame]]) -> HMBAVideoFeatures:
    """Adapt whole windows of one length; what the scans read of frames that were read before is known.

    Args:
        model: of their streams.
        windows: frames of each, the current one last; a new frame's `projected` is filled in.
    """
    new = {id(frame): frame for window in windows for frame in window if frame.projected is None}
    if new:
        found = model.project_frame_features(torch.cat([frame.rows for frame in new.values()]))
        for row, frame in enumerate(new.values()):
            frame.projected = {name: x[row : row + 1].clone() for name, x in found.items()}  # no view of all
    projected = {}
    for name in windows[0][0].projected or {}:
        projected[name] = _stack([[_projected(frame)[name] for frame in window] for window in windows])
    rows = _stack([[frame.rows for frame in window] for window in windows])
    return model.adapt_frame_features(rows, projected=projected)


def _projected(frame: WindowFrame) -> dict[str, Tensor]:
    assert frame.projected is not None  # of every frame that is read
    return frame.projected


def _stack(pieces: Sequence[Sequence[Tensor]]) -> Tensor:
    """Join tensors of frames, `(1, 1, ...)` each, to `(windows, t, ...)`."""
    return torch.cat([torch.cat(list(window), dim=1) for window in pieces])


def _check_one_model(streams: Sequence["VideoStream"]) -> None:
    if len({id(stream.model) for stream in streams}) != 1 or len({id(stream) for stream in streams}) != len(streams):
        raise ValueError(f"streams must be one or more of one model, each once, got {len(streams)} others")


__all__ = [
    "Pushing",
    "adapt_together",
    "ask_together",
    "push_or_restart",
    "push_or_restart_together",
    "push_together",
    "read_windows",
]
