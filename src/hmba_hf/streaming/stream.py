"""Video streams: push frames of a drive as they come, and ask at any moment, in constant memory."""

import hashlib
import math
import re
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from ..models.layers_adapter_state import AdapterState
from ..models.modeling_hmba import HMBAForConditionalGeneration
from ..models.modeling_hmba_vlm import HMBAVLMForConditionalGeneration
from ..models.outputs_hmba import HMBAVideoFeatures
from ..models.pipeline_hmba import VideoTextToTextPipeline, warn_of_other_length
from ..models.processing_hmba import HMBAProcessor
from ..models.processing_hmba_vlm import HMBAVLMProcessor
from .encoders import ENCODERS, EncodedFrame, read_options
from .frames import (
    FrameError,
    KindChange,
    TimeJump,
    WindowFrame,
    copy_frame,
    describe_frame,
    load_frame,
    upright_frame,
)
from .together import Pushing, push_together, read_windows
from .watching import ROUNDING, Answer, Watch, texts_differ

MODES = ("window", "recurrent")
TIME_TOLERANCE = 1e-6  # seconds
WEIGHTS_READ = 64  # numbers of each weight that identify a model


class VideoStream:
    """Watch a drive and answer questions about its current moment.

        stream = VideoStream(model, processor)
        for frame, seconds in camera:
            stream.push(frame, seconds)
        stream.ask("Which object is at the highest risk for the ego car?")
        # {"generated_text": "A white van[0.412,0.377,0.598,0.611] is cutting in",
        #  "objects": [{"label": "A white van", "box": {"xmin": ..., ...}}], "timestamp": 12.5}

    Frames may come at any rate, with jitter. The stream samples them at the model's `fps`. Its moments are `1 / fps`
    apart, counted from the first frame; each takes the frame nearest to it, at most half of `1 / fps` away. If there
    is none, the frame before stands for the moment, and `held` counts it. The vision tower encodes each frame taken
    once, and no other. Memory and the cost of a frame do not grow, and a question costs the same after ten frames and
    after a million.

    A frame that comes more than half a camera's step before its moment waits, since the next one will be nearer. Any
    other is taken at once; a nearer one that still comes replaces it.

    On a vision-language model, a frame is a picture of its base, and the answers are in the dialect of its processor.
    H-MBA on a vision tower keeps the text before the video as a cache; no other prompt is kept so (see `encoders`).

    Args:
        model, processor: as loaded, of H-MBA on a vision tower or on a vision-language model. The stream changes
            neither.
        mode: `"window"` reads the last `num_frames` frames as the pipeline reads a clip of them, and answers the same.
            `"recurrent"` updates the adapter's state from the first frame on (see `AdapterState`).
        fps, num_frames: in place of the processor's.

    Attributes:
        timestamp: seconds of the current frame; NaN before the first.
        held: moments since the stream was created for which an older frame stands.

    Raises:
        ValueError: if there is no such mode or no stream for such a model, or if its adapter cannot carry a state.
    """

    def __init__(
        self,
        model: HMBAForConditionalGeneration | HMBAVLMForConditionalGeneration,
        processor: HMBAProcessor | HMBAVLMProcessor,
        mode: str = "window",
        fps: float | None = None,
        num_frames: int | None = None,
    ):
        if mode not in MODES:
            raise ValueError(f"mode must be one of {list(MODES)}, got {mode!r}")
        family = model.config.model_type
        if family not in ENCODERS:
            raise ValueError(f"the model of a stream must be one of {list(ENCODERS)}, got {family!r}")
        if mode == "recurrent" and model.config.adapter == "transformer":
            raise ValueError("the adapter of a recurrent stream must be one with a state, got 'transformer'")
        self.model = model
        self.processor = processor
        self.mode = mode
        self.fps = processor.video_processor.fps if fps is None else fps
        self.num_frames = processor.video_processor.num_frames if num_frames is None else num_frames
        is_rate = isinstance(self.fps, Real) and 0 < float(self.fps) < math.inf
        is_count = isinstance(self.num_frames, Integral) and int(self.num_frames) >= 1
        if not (is_rate and is_count):
            raise ValueError(
                f"fps must be above 0 and num_frames 1 or more, as a whole number, got {self.fps!r} and "
                f"{self.num_frames!r}"
            )
        if mode == "window" and num_frames is None:
            warn_of_other_length(model, processor)
        self.held = 0
        self._drives = 0  # calls of `reset`
        # One for each stream: it refers to the model and processor and holds no more, so that sharing saves nothing.
        self._pipeline = VideoTextToTextPipeline.in_place(model, processor)
        self._encoder = ENCODERS[family](self._pipeline)
        self.reset()

    def reset(self, state: AdapterState | None = None) -> None:
        """Forget all frames, and all results of weights that may have changed since.

        In recurrent mode, the stream resumes from the state of another stream if one is given.

        Raises:
            ValueError: if the state is not one of this model's adapter for one stream, or if other weights computed
                it, as far as these are in memory; `AdapterState(state.tensors)` is accepted for any weights.
        """
        weights = ""
        kept_frames = self.num_frames
        if self.mode == "recurrent":
            weights = _digest(self.model, self._encoder.parts_of_a_state)
            kept_frames = 1
        if state is not None:
            state = self._checked(state, weights)
        self._encoder.forget()
        self._weights = weights
        self._current: EncodedFrame | None = None
        self._rows: int | None = None  # of each frame
        if state is not None:
            self._rows = self._encoder.rows_of(state)
        self._window: deque[WindowFrame] = deque(maxlen=kept_frames)
        self._before: AdapterState | None = state or AdapterState()  # before the current frame
        self._features: HMBAVideoFeatures | None = None  # of the current frame, once computed
        self._start = math.nan  # time of the first frame
        self._last = math.nan  # time of the last one pushed
        self._moment = -1  # of the current frame, in steps of 1 / fps
        self._miss = math.inf  # seconds between that moment and the current frame
        self._waiting: tuple[Any, float] | None = None  # a frame with its time, until the next one comes
        self._drives += 1
        self._kind: tuple | None = None  # shape and dtype of the frames
        self.timestamp = math.nan

    def push(self, frame: Any, timestamp: float) -> bool:
        """Add the next frame.

        Args:
            frame: PIL image, array or tensor.
            timestamp: its time in seconds, later than that of every frame before.

        Returns:
            Whether there is a new current frame: this one, or the one that waited. Any other frame costs a copy at
            most.

        Any error, also one of the vision tower, leaves the stream as it was.

        Raises:
            TimeJump: if the clock has gone back, or the frame comes more than a whole clip after the last one.
            KindChange: if the frame is of another size or dtype than the first. After this and a jump, `reset` starts
                again from the frame, as `push_or_restart` does.
            FrameError: if the frame has the time of the last one, or is no picture.
        """
        (outcome,) = push_together([self], [frame], [timestamp])
        if isinstance(outcome, FrameError):
            raise outcome
        return outcome

    def pushing(self, frame: Any, timestamp: float) -> Pushing[bool]:
        """Push a frame in steps, so that frames of several streams can be encoded together; see `push_together`.

        The stream changes with each step, so it should be a copy of the one whose frame it is.

        Yields:
            Frames to encode; each is answered by `send` with an `EncodedFrame`.

        Returns:
            As `push`, whose errors it raises, too.
        """
        frame = upright_frame(frame)
        timestamp = _in_seconds(timestamp)
        moment = self._moment_of(timestamp)
        kind = describe_frame(frame)
        if self._kind not in (None, kind):
            raise KindChange(f"frames must have the shape and dtype {self._kind} of the first, got {kind}")
        taken = yield from self._settle(moment, timestamp)
        interval = timestamp - self._last
        miss = self._miss_of(timestamp)
        if moment > self._moment or miss < self._miss - TIME_TOLERANCE:
            is_early = timestamp < self._time_of(moment) and miss > (0.5 + ROUNDING) * interval
            if is_early:  # the next one will be nearer
                self._waiting = (copy_frame(frame), timestamp)
            else:
                yield from self._take(frame, timestamp)
                taken = True
        self._kind = kind
        self._last = timestamp
        return taken

    def _settle(self, moment: int, timestamp: float) -> Pushing[bool]:
        """Take the frame that waits, unless the new one is nearer to its moment; return whether it was taken."""
        if self._waiting is None:
            return False
        frame, time = self._waiting
        self._waiting = None
        is_nearer = self._miss_of(timestamp) < self._miss_of(time) - TIME_TOLERANCE
        if moment == self._nearest_moment(time) and is_nearer:
            return False
        yield from self._take(frame, time)
        return True

    def _take(self, frame: Any, timestamp: float) -> Generator[Any, EncodedFrame, None]:
        """Make a frame the current one, that of its nearest moment."""
        moment = self._nearest_moment(timestamp)
        load_frame(frame)
        encoded = yield frame
        with torch.no_grad():
            rows = encoded.rows.shape[2]
            if self._rows not in (None, rows):
                raise FrameError(f"frames must have {self._rows} tokens each, as those before, got one with {rows}")
            window, before = self._advance(WindowFrame(encoded.rows), moment - self._moment)
        if math.isnan(self._start):
            self._start = timestamp
        self.held += max(moment - self._moment - 1, 0)
        self._window = window
        self._current = encoded
        self._rows = rows
        self._before = before
        self._features = None
        self.timestamp = timestamp
        self._moment = moment
        self._miss = self._miss_of(timestamp)

    def _moment_of(self, timestamp: float) -> int:
        if math.isnan(self._start):
            return 0
        if timestamp <= self._last:
            what = f"timestamp must be later than the last frame's, {self._last} s, got {timestamp} s"
            if timestamp == self._last:
                raise FrameError(what)
            raise TimeJump(f"{what}; `reset` starts again from it")
        longest = self.num_frames / self.fps
        if timestamp - self._last > longest + TIME_TOLERANCE:
            raise TimeJump(
                f"timestamp must be within {longest:g} s of the last frame's, {self._last} s, got {timestamp} s; "
                "`reset` starts again from it"
            )
        return self._nearest_moment(timestamp)

    def _nearest_moment(self, timestamp: float) -> int:
        """Return the number of the moment nearest to a time, the earlier one of two."""
        if math.isnan(self._start):
            return 0
        return math.floor((timestamp - self._start) * self.fps + 0.5 - TIME_TOLERANCE)

    def _time_of(self, moment: int) -> float:
        return self._start + moment / self.fps

    def _miss_of(self, timestamp: float) -> float:
        """Return the seconds between a time and its nearest moment."""
        return abs(timestamp - self._time_of(self._nearest_moment(timestamp)))

    def _advance(self, frame: WindowFrame, steps: int) -> tuple[deque[WindowFrame], AdapterState | None]:
        """Return window and state with a frame `steps` moments after the current one.

        With no step between them the frame replaces the current one, which stands for the moments left out otherwise.
        """
        window = self._window.copy()
        if steps == 0:
            window[-1] = frame
            return window, self._before
        held = []
        if window:
            held = [window[-1]] * min(steps - 1, self.num_frames)
        window.extend([*held, frame])
        if self.mode == "window" or not self._window:
            return window, self._before
        if self._features is not None:  # computed with the state after the current frame
            before = self._features.adapter_state
        else:
            rows = self._window[-1].rows
            before = self.model.adapt_frame_features(rows, self._before, read_out=False).adapter_state
        for still in held:
            before = self.model.adapt_frame_features(still.rows, before, read_out=False).adapter_state
        return window, before

    def window(self) -> list[WindowFrame]:
        """Return the frames that the temporal adapter reads at the current one in window mode."""
        frames = list(self._window)
        return [frames[0]] * (self.num_frames - len(frames)) + frames

    def features(self) -> HMBAVideoFeatures:
        """Return the current frame's input of the language model: `pooler_output`, `(1, p, hidden_size)`.

        In recurrent mode a stream can resume from `adapter_state`. Computed once for each frame.

        Raises:
            ValueError: before the first frame.
        """
        if not self._window:
            raise ValueError("a frame must be pushed before the first question, got none: call push")
        if self._features is None:
            with torch.no_grad():
                if self.mode == "recurrent":
                    self._features = self.model.adapt_frame_features(self._window[-1].rows, self._before)
                else:
                    self._features = read_windows(self.model, [self.window()])
            if self._features.adapter_state is not None:
                self._features.adapter_state = replace(self._features.adapter_state, weights=self._weights)
        return self._features

    def ask(self, question: str, **generate_kwargs: Any) -> Answer:
        """Answer a question about the current frame, as the pipeline would.

        Args:
            question: the text; it may place the video by the video token.
            generate_kwargs: for `generate`, such as `max_new_tokens` (256 by default) or `streamer`.

        Returns:
            `{"generated_text", "objects", "timestamp"}`: boxes in pixels of the frame as pushed, and its time.

        Raises:
            ValueError: before the first frame, or if more than one answer is wanted.
        """
        options = read_options(self._pipeline, generate_kwargs)
        features: Any = self.features().pooler_output
        inputs = self.write_prompt(question)
        filled = self._encoder.fill_in(inputs["input_ids"], frame=self._current, features=features, options=options)
        outputs = self._pipeline.forward({"inputs": inputs}, generate_kwargs={**generate_kwargs, **filled})
        return {**self._pipeline.postprocess(outputs)[0], "timestamp": self.timestamp}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames; zeros before the first."""
        if self._kind is None:
            return 0, 0
        height, width, _ = self._kind[0]
        return height, width

    def write_prompt(self, question: str) -> dict[str, Any]:
        """Return the inputs of the model for a question about the current frame, without what it sees."""
        times: dict[str, Any] = {}
        if self.processor.time_format is not None:
            times = {"video_metadata": [{"timestamps": [self.timestamp]}]}
        return self._encoder.write_prompt(question, self.size, **times)

    def watch(
        self,
        question: str,
        every: float = 0.0,
        changed: Callable[[Answer, Answer], bool] = texts_differ,
        **generate_kwargs: Any,
    ) -> "Watch":
        """Repeat a question while frames are pushed, and yield its answers when they change.

            answers = stream.watch("Which object is at the highest risk for the ego car?", every=2.0)
            for frame, seconds in camera:
                stream.push(frame, seconds)
                for answer in answers:
                    print(answer["timestamp"], answer["generated_text"])

        The caller drives the loop: only iterating over the answers asks the model. The iteration ends at once if there
        is no new answer, and can be repeated later, as over the lines of a growing file. So can `next(answers, None)`.

        Args:
            question: as in `ask`.
            every: least seconds of the stream from one question to the next; 0 asks about each moment.
            changed: whether an answer differs from the last one yielded, both as of `ask`; by default their texts,
                boxes included. `words_differ` compares only the words.
            generate_kwargs: as in `ask`.

        Raises:
            ValueError: if `every` is negative or no number, or if `changed` is no function.
        """
        return Watch(self, question, every=every, changed=changed, generate_kwargs=generate_kwargs)

    def _checked(self, state: AdapterState, weights: str) -> AdapterState:
        if self.mode != "recurrent":
            raise ValueError(f"mode must be 'recurrent' to resume from a state, got {self.mode!r}")
        state = state.to(self._pipeline.device)
        shape = (1, 1, self._encoder.rows_of(state) or 1, self._encoder.channels)
        blank = torch.zeros(shape, device=self._pipeline.device, dtype=self.model.dtype)
        with torch.no_grad():
            self.model.adapt_frame_features(blank, state, read_out=False)
        if state.weights and weights and state.weights != weights:
            raise ValueError(
                f"state must be one of this very model, with weights {weights}, got one of other weights, "
                f"{state.weights}"
            )
        return state


def _in_seconds(timestamp: Any) -> float:
    """Return a time as a float; a number of any kind, also in an array of no axis, is one, and a text is none."""
    try:
        seconds = math.nan if isinstance(timestamp, str | bytes) else float(timestamp)
    except (TypeError, ValueError, OverflowError):  # of another kind, of several numbers, too large
        seconds = math.nan
    if not math.isfinite(seconds):
        raise FrameError(f"timestamp must be a number of seconds, got {timestamp!r}")
    return seconds


def _digest(model: nn.Module, parts: re.Pattern[str]) -> str:
    """Return a digest of some numbers of each weight on which a state depends; empty if they are not in memory.

    Devices, compiling and a move from float32 to bfloat16 do not change it; layers of PEFT do.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        place = name.replace("_orig_mod.", "")
        part = parts.search(place)
        if part is None:
            continue
        if weight.is_meta:
            return ""
        step = max(1, -(-weight.numel() // WEIGHTS_READ))
        some = weight.detach().flatten()[::step].to(torch.bfloat16).tolist()
        digest.update(f"{place[part.start() :]} {tuple(weight.shape)} {some}".encode())
    return digest.hexdigest()[:16]
