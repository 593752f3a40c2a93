"""The tab in which a visitor chooses a clip and a moment, and asks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .asking import Asked, Asker
from .clips import clip_seconds, read_frames
from .html import frames_html
from .limits import PageLimits
from .looking import Attention
from .problems import in_words
from .records import write_records
from .uploads import takes_uploads_only
from .visits import Visits

try:
    import gradio as gr
except ImportError:
    gr = None

_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_STEPS: dict[str, Any] = {"minimum": 0, "step": 0.05, "buttons": []}
_PICTURE: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["fullscreen"]}
_NO_ATTENTION = "This model's adapter has no attention: it does not fuse by a query."
_LOOKED = (
    "The patches of the current frame ask each context, a branch of the adapter at a stride. "
    "Bright patches were looked at most; all shares sum to 100%."
)
_SHARES_ALONE = "There is no map, since it is not known how the patches of this frame lie:"


class Choice(NamedTuple):
    """Where the visitor says what to ask: the components."""

    video: Any
    moment: Any
    preview: Any
    question: Any
    button: Any
    problem: Any


class Outcome(NamedTuple):
    """Where the page shows what came of a question: the components, in the order in which handlers fill them."""

    picture: Any
    answer: Any
    alone_picture: Any
    alone: Any
    frames: Any
    attention: Any
    attention_text: Any
    records: Any
    json: Any
    csv: Any


def ask_tab(asker: Asker, clips: dict[str, Path], question: str, visits: Visits) -> Any:
    """Lay the tab out, inside the blocks that are open, and let it act; return the component of the clip."""
    with gr.Row():
        with gr.Column(min_width=300):
            choice = _lay_out_choice(clips, question, asker.limits)
        with gr.Column(min_width=300):
            answer = gr.Markdown("Nothing was asked yet.", elem_id="answer", elem_classes=["answer"])
            picture = gr.Image(label="Answer, on the current frame", elem_id="answered", **_PICTURE)
            gr.Markdown("### Frames that were read")
            frames = gr.HTML(elem_id="frames")
    outcome = _lay_out_outcome(picture, answer, frames)
    _let_choose(choice, asker.limits)
    _let_ask(choice, outcome, asker, visits)
    return choice.video


def _lay_out_choice(clips: dict[str, Path], question: str, limits: PageLimits) -> Choice:
    first = next(iter(clips), None)
    path = None if first is None else str(clips[first])
    moment, preview, _ = _measured(path, limits)
    if clips:
        chosen = gr.Radio(list(clips), value=first, label="Clip", elem_id="chosen")
    video = gr.Video(
        value=path,
        label="Or your own",
        sources=["upload", "webcam"],
        webcam_options=gr.WebcamOptions(mirror=False),
        elem_id="clip",
    )
    gr.Markdown(f"At most {limits.max_upload_bytes / 2**20:g} MiB and {limits.max_clip_seconds:g} s.")
    if clips:
        chosen.change(lambda title: str(clips[title]), chosen, video, **_QUIET)
    slider = gr.Slider(**{"maximum": 1, "value": 0} | moment, label="Moment, in seconds", elem_id="moment", **_STEPS)
    frame = gr.Image(preview, label="The frame at that moment", height=240, elem_id="preview", **_PICTURE)
    asked = gr.Textbox(question, label="Question", max_length=limits.max_question, elem_id="question", lines=2)
    button = gr.Button("Ask", variant="primary", elem_id="ask")
    problem = gr.Markdown(elem_id="problem", elem_classes=["problem"])
    takes_uploads_only(video)
    return Choice(video, slider, frame, asked, button, problem)


def _lay_out_outcome(picture: Any, answer: Any, frames: Any) -> Outcome:
    with gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown("### The same model, shown the current frame alone")
            alone = gr.Markdown(elem_id="alone", elem_classes=["answer"])
            alone_picture = gr.Image(label="Answer from one frame", elem_id="alone-picture", **_PICTURE)
        with gr.Column(min_width=300):
            gr.Markdown("### Where the query looked")
            attention_text = gr.Markdown(elem_id="attention-text")
            attention = gr.Image(label="Attention", show_label=False, elem_id="attention", **_PICTURE)
    with gr.Row():
        as_json = gr.DownloadButton("All answers as JSON", interactive=False, elem_id="json")
        as_csv = gr.DownloadButton("All answers as CSV", interactive=False, elem_id="csv")
    return Outcome(
        picture,
        answer,
        alone_picture,
        alone,
        frames,
        attention,
        attention_text,
        gr.State([]),
        json=as_json,
        csv=as_csv,
    )


def _let_choose(choice: Choice, limits: PageLimits) -> None:
    """Let a new clip set the slider, and the slider the frame."""

    def measure(path: str | None) -> tuple[Any, Any, str]:
        moment, preview, problem = _measured(path, limits)
        return gr.Slider(**moment) if moment else gr.skip(), preview, problem

    def show(path: str | None, seconds: float) -> tuple[Any, str]:
        if path is None:
            return None, ""
        try:
            return read_frames(path, seconds, limits).pictures[-1], ""
        except ValueError as error:
            return None, in_words(error)

    measured = [choice.moment, choice.preview, choice.problem]
    choice.video.change(measure, choice.video, measured, **_QUIET)
    choice.moment.input(
        show, [choice.video, choice.moment], [choice.preview, choice.problem], trigger_mode="always_last", **_QUIET
    )


def _measured(path: str | None, limits: PageLimits) -> tuple[dict[str, float], Any, str]:
    """Return the range of the slider for a clip and its last moment, the frame there, and what is wrong with it."""
    if path is None:
        return {}, None, ""
    try:
        seconds = clip_seconds(path, limits)
        frame = read_frames(path, None, limits)
    except ValueError as error:
        return {}, None, in_words(error)
    last = round(frame.times[-1], 2)
    return {"maximum": max(round(seconds, 2), last), "value": last}, frame.pictures[-1], ""


def _let_ask(choice: Choice, outcome: Outcome, asker: Asker, visits: Visits) -> None:
    """Let the button, and Enter in the question, ask."""

    def ask(path: Any, seconds: float, question: str, records: list[Any], request: gr.Request) -> list[Any]:
        visit = visits.open(request.session_hash)
        try:
            asked = asker.ask(path, seconds, question)
        except ValueError as error:
            return [in_words(error), *_nothing(records)]
        kept = [*records, asked.record(Path(path).name)][-asker.limits.max_records :]
        drawn = asker.draw_attention(asked)
        with visit.files() as folder:
            if folder is None:
                return ["", *_nothing(records)]
            return ["", *_filled(asked, drawn, kept, folder)]

    inputs = [choice.video, choice.moment, choice.question, outcome.records]
    gr.on(
        [choice.button.click, choice.question.submit],
        ask,
        inputs,
        [choice.problem, *outcome],
        concurrency_limit=4,
        api_visibility="private",
        show_progress="minimal",
    )


def _nothing(records: list[Any]) -> Outcome:
    """Return what stands where there is no answer; earlier ones can still be downloaded."""
    return Outcome(None, "", None, "", "", None, "", records, gr.skip(), gr.skip())


def _filled(asked: Asked, attention: Any, records: Sequence[Any], folder: Path) -> Outcome:
    as_json, as_csv = write_records(folder, records)
    return Outcome(
        picture=asked.answer.picture,
        answer=f"**At {asked.frames.times[-1]:.2f} s:** {_escaped(asked.answer.words)}",
        alone_picture=asked.alone.picture,
        alone=_escaped(asked.alone.words),
        frames=frames_html(asked.frames.pictures, asked.frames.times),
        attention=attention,
        attention_text=_said_of(asked.attention),
        records=records,
        json=gr.DownloadButton(value=str(as_json), interactive=True),
        csv=gr.DownloadButton(value=str(as_csv), interactive=True),
    )


def _said_of(attention: Attention) -> str:
    """Return the words above the maps of attention."""
    if not attention.maps:
        return _NO_ATTENTION
    if attention.problem:
        shares = [f"- {_escaped(name.replace('_', ' '))}: {share:.1%}" for name, share in attention.shares.items()]
        return "\n".join([f"{_SHARES_ALONE} {_escaped(attention.problem)}.", "", *shares])
    return _LOOKED


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]()#+-!|<>$~" else letter for letter in text) or "(no words)"
