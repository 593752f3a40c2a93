"""The tab in which a visitor watches a file, a camera or a screen, with answers as subtitles."""

import time
from collections.abc import Iterator
from functools import partial
from html import escape
from typing import Any, NamedTuple

from PIL import Image

from .asking import Asker
from .html import screen_html, table_html
from .problems import in_words
from .uploads import takes_uploads_only
from .visits import Visits
from .watching import Files, Shown, Watcher, play, watch_frame

try:
    import gradio as gr
except ImportError:
    gr = None

FILE = "The clip of the first tab"
CAMERA = "A camera"
SCREEN = "A screen"
_EVERY_PICTURE = 0.1  # least seconds from one picture in the browser to the next
_EVERY_FRAME = 0.2  # seconds from one frame of a camera to the next
_REST = 2.0  # seconds after the end of a drive, in which frames still come that were on their way
# Gradio has a component for cameras alone: where that of the screen is seen, the browser is asked for a screen.
_SHARING = """() => {
  const media = navigator.mediaDevices;
  if (!media) return;
  const camera = media.getUserMedia.bind(media);
  const refusal = () => Promise.reject(new DOMException("this browser shares no screen", "NotSupportedError"));
  const screen = () => media.getDisplayMedia ? media.getDisplayMedia({video: true}) : refusal();
  media.getUserMedia = (wanted) => document.querySelector("#shared")?.offsetParent ? screen() : camera(wanted);
}"""
_STOPPING = """(watcher) => {
  document.querySelector(":is(#camera, #shared) [title='stop recording']")?.closest("button")?.click();
  return [watcher];
}"""
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


class Screen(NamedTuple):
    """What the tab shows: the components, in the order in which handlers fill them."""

    picture: Any
    status: Any
    answers: Any
    problem: Any
    watcher: Any
    video: Any
    json: Any
    csv: Any


def stream_tab(asker: Asker, page: Any, clip: Any, question: str, visits: Visits) -> None:
    """Lay the tab out, inside the blocks that are open, and let it act.

    Args:
        asker: whose model answers.
        page: that the tab is part of.
        clip: the component with the clip of the first tab.
        question: that stands there at first.
        visits: of the page.
    """
    with gr.Row():
        with gr.Column(min_width=300, scale=2):
            source = gr.Radio([FILE, CAMERA, SCREEN], value=FILE, label="Watch", elem_id="source")
            asked = gr.Textbox(question, label="Question", max_length=asker.limits.max_question, lines=2)
            every = gr.Slider(0.5, 10, value=1, step=0.5, label="Seconds from one question to the next", buttons=[])
            start = gr.Button("Start", variant="primary", elem_id="start")
            camera = _lay_out_camera("Camera", "camera")
            shared = _lay_out_camera("Screen: the browser asks which", "shared")
            stop = gr.Button("Stop, and keep what was seen", elem_id="stop")
        with gr.Column(min_width=300, scale=3):
            screen = _lay_out_screen()
    source.change(_sides_of, source, [start, camera, shared], **_QUIET)
    page.load(None, js=_SHARING)
    _let_play(screen, [clip, asked, every], start, asker, visits)
    for name, component in ((CAMERA, camera), (SCREEN, shared)):
        _let_see(screen, [component, asked, every, screen.watcher], name, asker, visits)

    def end(watcher: Any, request: gr.Request) -> list[Any]:
        return _left(visits.open(request.session_hash).watched or watcher)

    stop.click(end, screen.watcher, [screen.video, screen.json, screen.csv], js=_STOPPING, **_QUIET)


def _lay_out_camera(label: str, name: str) -> Any:
    options = gr.WebcamOptions(mirror=False)
    camera = gr.Image(
        sources=["webcam"],
        streaming=True,
        type="pil",
        visible=False,
        webcam_options=options,
        label=label,
        elem_id=name,
    )
    return takes_uploads_only(camera)


def _sides_of(source: str) -> tuple[Any, Any, Any]:
    return gr.Button(visible=source == FILE), gr.Image(visible=source == CAMERA), gr.Image(visible=source == SCREEN)


def _lay_out_screen() -> Screen:
    picture = gr.HTML("<p>Nothing is watched yet.</p>", elem_id="screen")
    status = gr.Markdown(elem_id="status")
    problem = gr.Markdown(elem_id="stream-problem", elem_classes=["problem"])
    answers = gr.HTML(elem_id="answers")
    video = gr.DownloadButton("Annotated video", interactive=False, elem_id="annotated")
    with gr.Row():
        as_json = gr.DownloadButton("Answers as JSON", interactive=False, elem_id="stream-json")
        as_csv = gr.DownloadButton("Answers as CSV", interactive=False, elem_id="stream-csv")
    return Screen(picture, status, answers, problem, gr.State(None), video, json=as_json, csv=as_csv)


def _let_play(screen: Screen, inputs: list[Any], start: Any, asker: Asker, visits: Visits) -> None:
    """Let the button start a file, at its own pace and to its end."""

    def watch(path: Any, question: str, every: float, request: gr.Request) -> Iterator[Screen]:
        visit = visits.open(request.session_hash)
        watcher = None
        try:
            with visit.turn:
                watcher = Watcher(asker, question, every, visit, FILE)
            yield _beginning(watcher)
            seen = 0.0
            for shown in play(watcher, path):
                if time.monotonic() - seen >= _EVERY_PICTURE:
                    seen = time.monotonic()
                    yield _seen(shown, watcher)
        except ValueError as error:
            yield _all_kept()._replace(problem=in_words(error))
        finally:
            left = _left(watcher if watcher is visit.watched else None)
        yield _all_kept()._replace(video=left[0], json=left[1], csv=left[2])

    limit = asker.limits.max_streams
    start.click(watch, inputs, list(screen), concurrency_limit=limit, concurrency_id="streams", **_QUIET)


def _let_see(screen: Screen, inputs: list[Any], source: str, asker: Asker, visits: Visits) -> None:
    """Let each frame of a camera be seen; the drive begins anew after the visitor has stopped it."""

    def see(frame: Any, question: str, every: float, before: Any, request: gr.Request) -> Screen:
        if not isinstance(frame, Image.Image):
            return _all_kept()
        try:
            if frame.width * frame.height > asker.limits.max_pixels:
                raise ValueError(f"a frame must have at most {asker.limits.max_pixels} pixels, got {frame.size}")
            if before is not None and before.has_just_ended(_REST):  # also with its visit, which shall not begin anew
                return _all_kept()
            visit = visits.open(request.session_hash)
            begin = partial(Watcher, asker, question, every, visit, source)
            seen = watch_frame(visit, source, frame.convert("RGB"), begin, _REST)
        except ValueError as error:
            return _all_kept()._replace(problem=in_words(error))
        return _all_kept() if seen is None else _seen(seen[1], seen[0])

    camera = inputs[0]
    camera.stream(
        see,
        inputs,
        list(screen),
        stream_every=_EVERY_FRAME,
        time_limit=asker.limits.max_clip_seconds,
        concurrency_limit=asker.limits.max_streams,
        **_QUIET,
    )


def _all_kept() -> Screen:
    """Return what leaves every component as it is."""
    return Screen(*[gr.skip()] * len(Screen._fields))


def _beginning(watcher: Watcher) -> Screen:
    off = gr.DownloadButton(value=None, interactive=False)
    return Screen("<p>Opening the clip.</p>", "", "", "", watcher, video=off, json=off, csv=off)


def _seen(shown: Shown, watcher: Watcher) -> Screen:
    picture = screen_html(shown.picture, shown.subtitle, f"the drive at {shown.seconds:.1f} s")
    rows = [(f"{record['timestamp']:.2f} s", watcher.strip_boxes(record["answer"])) for record in watcher.records]
    answers = table_html(("time", "answer"), rows[:-16:-1])
    return _all_kept()._replace(
        picture=picture, status=escape(shown.status), answers=answers, problem="", watcher=watcher
    )


def _left(watcher: Any) -> list[Any]:
    """End a drive; return the buttons of what is left of it."""
    files = Files(None, None, None) if watcher is None else watcher.finish()
    return [gr.skip() if path is None else gr.DownloadButton(value=str(path), interactive=True) for path in files]
