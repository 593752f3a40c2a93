"""The lay-out of the live page in Gradio, and where it listens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..installation import missing_extra
from .ask_tab import ask_tab
from .asking import Asker
from .stream_tab import stream_tab
from .visits import Visits

try:
    import gradio as gr
except ImportError:
    gr = None

PASSWORD = "HMBA_APP_PASSWORD"  # noqa: S105 - the name of a variable
USER = "hmba"
_KEPT = 3600  # seconds for which uploads and pictures stay on disk
_WAITING = 32  # questions that wait at most
_STYLE = """
.gradio-container { max-width: 1200px !important; margin: 0 auto !important; }
#clip video { max-height: 260px; }
.problem p { border-left: 4px solid #c81e1e; padding: .4rem .8rem; margin: 0; font-size: 1rem; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(90px, 1fr)); gap: .5rem; }
.frames figure { margin: 0; } .frames img { width: 100%; border-radius: 4px; }
.frames figcaption { font-size: .9rem; text-align: center; }
.screen { position: relative; margin: 0; }
.screen img { display: block; width: 100%; max-height: 70vh; object-fit: contain; background: #000; }
.screen figcaption { position: absolute; bottom: 0; left: 0; right: 0; padding: .5rem .8rem; text-align: center;
  font-size: 1.1rem; color: #fff; background: rgba(0, 0, 0, .7); }
#answers table { width: 100%; border: 0 !important; }
#answers tr { border: 0 !important; }
#answers :is(td, th) { padding: .3rem .8rem .3rem 0; border: 0 !important; text-align: left; }
#answers td { border-bottom: 1px solid #d8dbe0 !important; }
#answers td:first-child { white-space: nowrap; vertical-align: top; }
.answer p { font-size: 1.15rem; margin: .2rem 0 .6rem; }
"""


class Subject(NamedTuple):
    """What a page shows.

    Attributes:
        name: of the model.
        worth: in one line, what its answers are worth.
        question: that stands there at first.
        clips: files to choose from, by their titles; the first one is there when the page opens.
    """

    name: str
    worth: str
    question: str
    clips: Mapping[str, Path]


def require_gradio() -> None:
    """Raise an `ImportError` that names the extra where Gradio is missing."""
    if gr is None:
        raise missing_extra("`hmba app` needs", "app")


def build_page(asker: Asker, subject: Subject) -> Any:
    """Return the page, as a `gradio.Blocks`, which does not listen yet.

    Raises:
        ImportError: Gradio is missing.
    """
    require_gradio()
    visits = Visits()
    kept = (_KEPT, _KEPT)
    with gr.Blocks(title=f"{subject.name} - H-MBA", analytics_enabled=False, delete_cache=kept) as page:
        gr.Markdown(f"# H-MBA on a clip\n\n**{subject.name}**: {subject.worth}")
        with gr.Tabs():
            with gr.Tab("Ask"):
                clip = ask_tab(asker, dict(subject.clips), subject.question, visits)
            with gr.Tab("Stream"):
                stream_tab(asker, page, clip, subject.question, visits)

        def leave(request: gr.Request) -> None:
            visits.end(request.session_hash)

        page.unload(leave)
    page.queue(default_concurrency_limit=4, max_size=_WAITING)
    return page


def launch_page(
    page: Any,
    clips: Sequence[Path],
    host: str,
    port: int | None,
    password: str | None,
    max_upload_bytes: int,
) -> str:
    """Begin to listen, in a thread beside; `page.block_thread()` waits until the process is told to end.

    Args:
        page: of `build_page`.
        clips: that it offers, which may be sent to visitors.
        host, port: to listen on; a free port when absent.
        password: of the user `hmba`, if visitors must give one.
        max_upload_bytes: of an uploaded file.

    Returns:
        The page's address, where it answers by now.
    """
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        auth=None if password is None else (USER, password),
        auth_message=f"The user is {USER}.",
        max_file_size=max_upload_bytes,
        theme=theme,
        css=_STYLE,
        allowed_paths=list(map(str, clips)),
        share=False,
        inbrowser=False,
        quiet=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        prevent_thread_lock=True,
    )
    return address
