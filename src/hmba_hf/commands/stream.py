"""Watch a drive as it happens and ask about it every few seconds.

    hmba stream --model org/hmba-drama --source dashcam.mp4 --every 2 --output_dir runs/stream
    hmba stream --model org/hmba-drama --source frames/ --source_fps 10     # pictures, by name
    hmba stream --model org/hmba-drama --source fcamera.hevc --source_fps 20
    hmba stream --model org/hmba-drama --source /dev/video0 --source_format v4l2

It prints answers as they come and writes them to `answers.jsonl`. `annotated.mp4` shows the drive with the boxes of
the last answer. `--changed text` drops answers with the text of the last one, `--changed words` those with its words
outside of boxes. A status line has frames per second, the time of each stage, and memory.

Ctrl-C ends it with everything so far on disk. `--on_error` skips a frame that cannot be read, holds the last good one
or stops. `--source_fps` is the rate of a folder of pictures, too, 10 when absent. The exit status is 1 where the
source, or every frame of it, cannot be read.
"""

import argparse
import json
import signal
import statistics
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psutil
from PIL import Image
from tqdm import tqdm
from transformers import AutoProcessor

from hmba_hf import (
    FrameError,
    SourceLimits,
    VideoDecodeError,
    VideoStream,
    iter_frames,
    set_linear_implementation,
)
from hmba_hf.commands.parsing import add_loading_options, check_counts, command_parser, loading_options
from hmba_hf.data.samples import RISK_QUESTION
from hmba_hf.data.video_options import VideoOptions
from hmba_hf.families import load_model
from hmba_hf.messages import run_command
from hmba_hf.models.decoding_containers import LIMITS
from hmba_hf.models.decoding_stills import PICTURE_SUFFIXES, list_pictures, read_picture
from hmba_hf.streaming import check_every, push_or_restart, texts_differ, words_differ
from hmba_hf.streaming.annotated import AnnotatedVideo
from hmba_hf.visualization import draw_moment

FOLDER_FPS = 10.0
CHANGES = {"text": texts_differ, "words": words_differ}


class Moment(NamedTuple):
    """A frame of the source and its time in seconds; an error stands for a frame that cannot be read."""

    seconds: float
    frame: Image.Image | Exception


def read_folder(folder: Path, fps: float, limits: SourceLimits = LIMITS) -> Iterator[Moment]:
    """Yield the pictures of a folder in the natural order of their names: 2 comes before 10."""
    paths = list_pictures(folder)
    if not paths:
        raise VideoDecodeError(f"the folder must hold pictures ({', '.join(PICTURE_SUFFIXES)}), got none in {folder}")
    for i, path in enumerate(paths):
        try:
            yield Moment(i / fps, read_picture(path, limits))
        except (FileNotFoundError, VideoDecodeError) as error:
            yield Moment(i / fps, error)


def read_source(args: argparse.Namespace, options: VideoOptions) -> Iterator[Moment]:
    """Yield the frames of a folder, a file or a camera, as they come."""
    if Path(args.source).is_dir():
        fps = FOLDER_FPS if options.source_fps is None else options.source_fps
        yield from read_folder(Path(args.source), fps, options.limits)
        return
    frames = iter_frames(args.source, args.source_format, **options.rules)
    while True:
        try:
            seconds, frame = next(frames)
        except StopIteration:
            return
        except ValueError as error:  # such as a format that FFmpeg does not have
            raise VideoDecodeError(str(error)) from error
        if isinstance(frame, Exception):
            yield Moment(seconds, frame)
        else:
            yield Moment(seconds, Image.fromarray(frame))


class AnswersFile:
    """The answers of a drive, a line of JSON each; those of an earlier drive stay until this one has shown a frame."""

    def __init__(self, path: Path):
        self.path = path
        self.file: TextIO | None = None

    def begin(self) -> TextIO:
        """Take the place of the earlier answers, once."""
        if self.file is None:
            self.file = open(self.path, "w", encoding="utf-8")
        return self.file

    def write(self, answer: dict[str, Any]) -> None:
        """Add an answer, so that it is there even if the run is killed."""
        file = self.begin()
        file.write(json.dumps(answer) + "\n")
        file.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self.file is not None:
            self.file.close()


class Stages:
    """How long each stage takes: its last twenty times for the status line, sum and count for the table."""

    def __init__(self) -> None:
        self.recent: dict[str, deque[float]] = {}
        self.totals: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self.start = time.perf_counter()

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the body to a stage."""
        start = time.perf_counter()
        yield
        took = time.perf_counter() - start
        self.recent.setdefault(name, deque(maxlen=20)).append(took)
        self.totals[name] += took
        self.counts[name] += 1

    def line(self, frames: int) -> dict[str, str]:
        """Return the fields of the status line."""
        stages = {name: f"{1e3 * statistics.mean(times):.0f}ms" for name, times in self.recent.items()}
        rate = frames / (time.perf_counter() - self.start)
        return {"fps": f"{rate:.1f}", **stages, "memory": f"{psutil.Process().memory_info().rss / 2**20:.0f}MiB"}

    def table(self) -> str:
        """Write the mean time of each stage and how often it was run."""
        rows = ["mean milliseconds of each stage:"]
        for name, total in self.totals.items():
            count = self.counts[name]
            rows.append(f"  {name:8} {1e3 * total / count:9.2f} x {count}")
        return "\n".join(rows)


def show(moment: Moment, answer: dict[str, Any] | None, strip_boxes: Callable[[str], str]) -> Image.Image:
    """Draw the last answer's boxes, and its text below the picture."""
    objects = []
    text = ""
    if answer is not None:
        objects = answer["objects"]
        text = strip_boxes(answer["generated_text"])
    assert isinstance(moment.frame, Image.Image)  # a broken one has been mended
    return draw_moment(moment.frame, moment.seconds, text, objects)


def push(stream: VideoStream, moment: Moment) -> None:
    """Push a frame to the video stream, and tell why it starts anew where it does."""
    why = push_or_restart(stream, moment.frame, moment.seconds)
    if why is not None:
        tqdm.write(f"{moment.seconds:8.2f} s  starting anew: {why}")


def mend(moment: Moment, error: Exception, last: Moment | None, on_error: str) -> Moment | None:
    """Return the substitute of a broken frame: nothing, or the last good one if its time has passed."""
    if on_error == "stop":
        raise VideoDecodeError(f"{moment.seconds:.3f} s: {error}") from error
    tqdm.write(f"{moment.seconds:8.2f} s  broken frame: {error}")
    if on_error == "skip" or last is None or moment.seconds <= last.seconds:
        return None
    return moment._replace(frame=last.frame)


@contextmanager
def stopping_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the run after the current frame, and a second one at once.

    Yields:
        A function that returns whether Ctrl-C was pressed.
    """
    interrupts = []

    def note(number: int, frame: Any) -> None:
        interrupts.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(interrupts)
    finally:
        signal.signal(signal.SIGINT, before)


def watch(
    stream: VideoStream,
    moments: Iterator[Moment],
    args: argparse.Namespace,
    answers: AnswersFile,
    video: AnnotatedVideo,
    is_stopped: Callable[[], bool],
) -> None:
    """Push every frame of the source, ask when a question is due, write the answers and the annotated video."""
    stages = Stages()
    changed = CHANGES.get(args.changed, lambda before, after: True)
    watched = stream.watch(args.question, args.every, changed, max_new_tokens=args.max_new_tokens)
    answer = None
    last = None
    broken = 0
    with tqdm(unit=" frames", dynamic_ncols=True) as bar:
        try:
            while not is_stopped():
                with stages.measure("read"):
                    moment = next(moments, None)
                if moment is None:
                    break
                with stages.measure("watch"):
                    try:
                        if isinstance(moment.frame, Exception):
                            raise moment.frame
                        push(stream, moment)
                    except (FileNotFoundError, VideoDecodeError, FrameError) as error:
                        broken += 1
                        moment = mend(moment, error, last, args.on_error)
                        if moment is None:
                            continue
                        push(stream, moment)
                last = moment
                answers.begin()
                if watched.is_due:
                    with stages.measure("answer"):
                        found = next(watched, None)
                    if found is not None:
                        answer = found
                        answers.write({"question": args.question, **answer})
                        tqdm.write(f"{answer['timestamp']:8.2f} s  {answer['generated_text']}")
                with stages.measure("write"):
                    video.write(show(moment, answer, stream.processor.strip_boxes), moment.seconds)
                bar.update()
                bar.set_postfix(stages.line(bar.n))
        finally:
            if bar.n or broken:
                counts = f"{bar.n} frames, {broken} broken, {stream.held} moments held by an older frame"
                tqdm.write(f"\n{counts}; {stages.table()}")


def read_options(words: Sequence[str] | None) -> tuple[argparse.Namespace, VideoOptions]:
    """Read the command line; a wrong option ends the run with a line."""
    parser = command_parser(VideoOptions, program="hmba stream", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--source", required=True, help="video file or URL, folder of pictures, or camera")
    parser.add_argument("--source_format", help="FFmpeg's name of a camera's format, such as v4l2 or avfoundation")
    parser.add_argument(
        "--mode",
        default="window",
        choices=["window", "recurrent"],
        help="whether the model sees the last frames, or all by a state",
    )
    parser.add_argument("--question", default=RISK_QUESTION, help="to ask again and again")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two questions")
    parser.add_argument("--changed", choices=CHANGES, help="only answers that differ in it from the last one")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="longest answer")
    parser.add_argument(
        "--on_error",
        default="skip",
        choices=["skip", "hold", "stop"],
        help="what a broken frame does; hold shows the last good one",
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("runs/stream"), help="for answers and the annotated video"
    )
    add_loading_options(parser)
    try:
        options, args = parser.parse_args_into_dataclasses(words)
        check_every(args.every)
    except ValueError as error:
        parser.error(str(error))
    check_counts(parser, args, "max_new_tokens")
    return args, options


def main(words: Sequence[str] | None = None) -> None:
    """Load, watch, and close everything whatever ends the run; exit with the problem where no frame was shown."""
    args, options = read_options(words)
    try:
        problem = run(args, options)
    except VideoDecodeError as error:
        problem = str(error)
    if problem is not None:
        sys.exit(problem)


def run(args: argparse.Namespace, options: VideoOptions) -> str | None:
    """Watch the source to its end; return the problem where no frame was shown."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model, **loading_options(args))
    set_linear_implementation(model)
    stream = VideoStream(model.eval(), AutoProcessor.from_pretrained(args.model), mode=args.mode)
    answers = AnswersFile(args.output_dir / "answers.jsonl")
    video = AnnotatedVideo(args.output_dir / "annotated.mp4")
    try:
        with stopping_on_interrupt() as is_stopped:
            watch(stream, read_source(args, options), args, answers=answers, video=video, is_stopped=is_stopped)
            print("stopped" if is_stopped() else "the source has ended")
    finally:
        answers.close()
        video.close()
        if not video.is_empty:
            print(f"answers and the annotated video are in {args.output_dir}")
    if video.is_empty and not is_stopped():
        return f"{args.source} has shown no frame"
    return None


if __name__ == "__main__":
    run_command(main)
