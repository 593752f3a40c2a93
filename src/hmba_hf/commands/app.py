"""Open a live page: choose a clip and a moment, ask, and see the answer and where the query looked.

    hmba app
    hmba app --model org/hmba-drama --clips drives/
    HMBA_APP_PASSWORD=... hmba app --model org/hmba-drama --host 0.0.0.0

Without `--model` it opens on the model that `hmba demo` has left in `runs/demo/model`, else on the one that comes with
the package. Visitors choose among the clips of a folder, of the drawn world if none is named, or upload their own.

It listens on this machine alone. For others it needs a password, which the environment holds as HMBA_APP_PASSWORD, for
the user `hmba`; put a server with TLS in front. No path of a visitor is read.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from hmba_hf import set_linear_implementation
from hmba_hf.app.asking import Asker
from hmba_hf.app.limits import PageLimits
from hmba_hf.app.page import PASSWORD, Subject, build_page, launch_page, require_gradio
from hmba_hf.commands.demo import DISCLAIMER, RECORD, TUNED, write_held_out_clips
from hmba_hf.commands.listening import add_listening_options, check_answers, name_of, read_guard
from hmba_hf.commands.parsing import command_parser
from hmba_hf.data.samples import RISK_QUESTION
from hmba_hf.families import load_model
from hmba_hf.files import read_json_object
from hmba_hf.hosts import at
from hmba_hf.messages import logger, run_command, show_messages
from hmba_hf.quantisation import quantising_options

DEMO = Path("runs/demo/model")
_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v")
_UNKNOWN = "a model can be wrong about any road: look at the picture before its answer."


def main(words: Sequence[str] | None = None) -> None:
    """Load the model and open its page."""
    parser = command_parser(PageLimits, program="hmba app", description=__doc__)
    parser.add_argument("--model", help="folder or Hub id; the demo's, or the one of the package, if absent")
    parser.add_argument("--clips", type=Path, help="folder of videos to choose from")
    add_listening_options(parser, port=7860)
    limits, args = parser.parse_args_into_dataclasses(words)
    password = read_guard(args.host, args.port, PASSWORD)
    show_messages()
    with tempfile.TemporaryDirectory(prefix="hmba-clips-") as folder:
        loading = {"dtype": args.dtype, "device_map": args.device_map, "quantization": args.quantization}
        page, offered = open_page(args.model, args.clips, Path(folder), limits, **loading)
        launch_page(page, offered, args.host, args.port, password, limits.max_upload_bytes)
        logger.info("the page is at http://%s", at(args.host, args.port))
        page.block_thread()


def open_page(
    model: str | None,
    clips: Path | None,
    folder: Path,
    limits: PageLimits,
    quantization: str | None = None,
    **loading: Any,
) -> tuple[Any, list[Path]]:
    """Load a model and return its page, which does not listen yet, and the clips that it offers.

    Args:
        model: folder or Hub id; the demo's, or the one of the package, when absent.
        clips: folder of videos to choose from; clips of the drawn world when absent.
        folder: for these.
        limits: of the page.
        quantization: of the language model, as in `quantising_options`.
        loading: options of `load_model`, such as `dtype` and `device_map`.
    """
    place = model or str(DEMO if is_finished_demo(DEMO) else TUNED)
    check_answers(place)
    require_gradio()
    offered = write_held_out_clips(folder) if clips is None else list_clips(clips)
    loaded = load_model(place, **loading, **quantising_options(place, quantization)).eval()
    set_linear_implementation(loaded)
    asker = Asker(loaded, AutoProcessor.from_pretrained(place), limits)
    return build_page(asker, Subject(name_of(place), worth_of(place), RISK_QUESTION, offered)), list(offered.values())


def is_finished_demo(folder: Path) -> bool:
    """Return whether a folder holds a model that `hmba demo` has trained to the end."""
    record = folder / RECORD
    return record.is_file() and bool(read_json_object(record, recipe=dict).get("is_done"))


def list_clips(folder: Path) -> dict[str, Path]:
    """Return the videos of a folder by their names.

    Raises:
        ValueError: if there are none.
    """
    found = {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES}
    if not found:
        raise ValueError(f"clips must be a folder of videos ({', '.join(_SUFFIXES)}), got none in {folder}")
    return found


def worth_of(model: str) -> str:
    """Return in one line what the answers of a model are worth."""
    is_of_the_drawn_world = Path(model) == TUNED or (Path(model) / RECORD).is_file()
    return DISCLAIMER if is_of_the_drawn_world else _UNKNOWN


if __name__ == "__main__":
    run_command(main)
