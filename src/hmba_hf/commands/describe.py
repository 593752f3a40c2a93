"""Ask H-MBA about a moment of a driving video, and draw its answer on the picture.

    hmba describe --model org/hmba-drama --video dashcam.mp4 --timestamp 12.4

The picture shows the current frame with the boxes of the answer, and below it the earlier frames of the clip.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from transformers import pipeline

import hmba_hf  # noqa: F401 - registers the pipeline
from hmba_hf import decode_frames, set_linear_implementation
from hmba_hf.commands.listening import check_answers
from hmba_hf.commands.parsing import add_loading_options, check_counts, command_parser, loading_options
from hmba_hf.data.samples import RISK_QUESTION
from hmba_hf.data.video_options import VideoOptions
from hmba_hf.families import family_of
from hmba_hf.messages import run_command
from hmba_hf.visualization import draw_answer


def main(words: Sequence[str] | None = None) -> None:
    """Answer, draw, save, print."""
    parser = command_parser(VideoOptions, program="hmba describe", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id")
    parser.add_argument("--video", required=True, help="any video file that PyAV reads, or a URL")
    parser.add_argument("--question", default=RISK_QUESTION, help="to ask about that moment")
    parser.add_argument("--timestamp", type=float, default=None, help="seconds into the video; its end if absent")
    parser.add_argument("--output", type=Path, default=Path("answer.png"), help="picture with the answer's boxes")
    parser.add_argument("--max_new_tokens", type=int, default=128, help="longest answer")
    add_loading_options(parser)
    options, args = parser.parse_args_into_dataclasses(words)
    check_counts(parser, args, "max_new_tokens")
    if Image.registered_extensions().get(args.output.suffix.lower()) not in Image.SAVE:
        parser.error(f"--output must end as a picture does, such as .png, got {args.output}")
    args.output.parent.mkdir(parents=True, exist_ok=True)

    check_answers(args.model)  # also that it is there
    if "://" not in args.video:
        # Its current frame, before the model is loaded, which says what else it wants to see.
        decode_frames(args.video, timestamp=args.timestamp, num_frames=1, **options.rules)
    task: Any = "video-text-to-text"  # which transformers learns by importing this package
    pipe = pipeline(task, model=args.model, model_kwargs=loading_options(args))
    set_linear_implementation(pipe.model)
    pipe.processor.video_processor.set_source_rules(**options.rules)
    described = describe(pipe, args.video, args.question, args.timestamp, args.max_new_tokens)
    described.page.save(args.output)

    times = [f"{time:.2f}" for time in described.times]
    print(f"frames at {', '.join(times)} s")
    print(described.text)
    for item in described.objects:
        print(f"  {item['label']}: {item['box']}")
    print(f"picture: {args.output}")


class Description(NamedTuple):
    """An answer about a moment of a video.

    Attributes:
        text: as the model has written it.
        objects: its boxes, as in `draw_answer`.
        times: of the frames that the model saw, in seconds.
        page: the answer, drawn.
    """

    text: str
    objects: list[dict[str, Any]]
    times: Sequence[float]
    page: Image.Image


def describe(
    pipe: Any, video: Any, question: str = RISK_QUESTION, timestamp: float | None = None, max_new_tokens: int = 128
) -> Description:
    """Ask the model of a pipeline about a moment of a video, and draw its answer.

    Args:
        pipe: of `"video-text-to-text"`, whose video processor has the rules for files.
        video: any source of `decode_frames`.
        question: text.
        timestamp: seconds into the video; its end when absent.
        max_new_tokens: longest answer.

    Raises:
        FileNotFoundError: if there is no such video.
        ValueError: if it cannot be read, or if the moment is outside of it.
    """
    sampling = pipe.processor.video_processor
    rules = sampling.source_rules
    frames, metadata = decode_frames(
        video, timestamp=timestamp, num_frames=sampling.num_frames, fps=sampling.fps, **rules
    )
    (answer,) = pipe(videos=frames, text=question, generate_kwargs={"max_new_tokens": max_new_tokens})
    text = answer["generated_text"]
    objects = answer["objects"]
    words = pipe.processor.strip_boxes(text)  # the boxes are drawn instead
    pictures = [Image.fromarray(frame) for frame in frames]
    name = family_of(pipe.model.config).name
    page = draw_answer(pictures, metadata.timestamps, question, words, objects, name=name)
    return Description(text, objects, metadata.timestamps, page)


if __name__ == "__main__":
    run_command(main)
