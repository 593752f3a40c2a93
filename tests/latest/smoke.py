"""What must work with every release of what H-MBA stands on; run by `run.py` and by `test_older_transformers.py`.

    python tests/latest/smoke.py FOLDER [--only load answer ...]

Each step is a function here. One line of JSON is printed for each, with its seconds or its error, and one before them
with the versions.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).parents[1]
MICRO_BASE = TESTS.parent / "examples" / "micro_base"
QUESTION = "Which objects are there?"
HUB_SOCKET = socket.socket()  # of the Hub on this machine; its address is read when huggingface_hub is imported
HUB_SOCKET.bind(("127.0.0.1", 0))
WITHOUT_PACKAGE = """
import sys, torch
sys.modules["hmba_hf"] = None  # it cannot be imported
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules")
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe = pipeline("video-text-to-text", model=sys.argv[1], trust_remote_code=True)
print(pipe(videos=sys.argv[2], text=sys.argv[3], max_new_tokens=8)[0]["generated_text"])
"""


def load(folder: Path) -> None:
    """The micro base has all of its weights, and a forward gives a loss and a cache under both names."""
    import torch

    model, processor = _parts()
    inputs = processor(videos=[_frames()], text=f"{processor.video_token}{QUESTION}", return_tensors="pt")
    outputs = model(**inputs, labels=inputs["input_ids"], use_cache=True)
    assert torch.isfinite(outputs.loss) and outputs.cache is outputs.past_key_values is not None
    for name in ("cache", "past_key_values"):
        again = model(**inputs, **{name: None})
        assert torch.equal(again.logits, outputs.logits)


def answer(folder: Path) -> None:
    """The pipeline answers about a file, and with greedy search always the same."""
    pipe = _pipeline()
    first, second = (pipe(videos=str(_video(folder)), text=QUESTION, max_new_tokens=8) for _ in range(2))
    assert first == second and first[0]["generated_text"], first


def stream(folder: Path) -> None:
    """A stream answers about the frames of that file."""
    from hmba_hf.streaming import VideoStream

    watching = VideoStream(*_parts())
    for number, frame in enumerate(_frames()):
        watching.push(frame, 0.5 * number)
    assert watching.ask(QUESTION, max_new_tokens=8)["generated_text"]


def stream_on_any_base(folder: Path) -> None:
    """A stream on a vision-language model answers as its pipeline does about the same frames."""
    sys.path.insert(0, str(TESTS))
    from hmba_hf import HMBAVLMProcessor
    from hmba_hf.models.pipeline_hmba import VideoTextToTextPipeline
    from hmba_hf.streaming import VideoStream
    from tiny_hmba_vlm import KINDS, model_on
    from tiny_vlm_bases import tiny_vlm

    for name in KINDS:
        base = tiny_vlm(name)
        model = model_on(base)
        processor = HMBAVLMProcessor(base.processor, boxes_dialect="thousand")
        watching = VideoStream(model, processor)
        frames = [base.picture(shade) for shade in range(5)]
        for number, frame in enumerate(frames):
            watching.push(frame, 0.5 * number)
        pipe = VideoTextToTextPipeline(model=model, processor=processor)
        (wanted,) = pipe(videos=frames, text=QUESTION, max_new_tokens=8)
        assert watching.ask(QUESTION, max_new_tokens=8) == {**wanted, "timestamp": 2.0}, name


def save(folder: Path) -> None:
    """A checkpoint is saved with its code, and beside it what it answers."""
    for part in _parts():
        part.save_pretrained(folder / "saved")
    answers = _pipeline()(videos=str(_video(folder)), text=QUESTION, max_new_tokens=8)
    (folder / "answer.txt").write_text(answers[0]["generated_text"])


def carry_code(folder: Path, path: str = "") -> None:
    """That checkpoint answers the same by its own code alone, without the package.

    Args:
        path: of packages that come before those which are installed, such as another transformers.
    """
    command = [sys.executable, "-c", WITHOUT_PACKAGE, str(folder / "saved"), str(_video(folder)), QUESTION]
    offline = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules"), "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **offline}, cwd=folder)
    assert done.returncode == 0, done.stderr
    wanted = (folder / "answer.txt").read_text()
    assert done.stdout.strip() == wanted.strip(), (done.stdout, wanted)


def train(folder: Path) -> None:
    """Training makes one step on drawn clips, and leaves a model that loads."""
    from transformers import AutoModelForImageTextToText

    from hmba_hf.tasks.answering.arguments import parse_arguments
    from hmba_hf.tasks.answering.run import finetune

    words = {"model": MICRO_BASE, "dataset_name": "micro-world", "output_dir": folder / "tuned"}
    words |= {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": "none", "max_eval_samples": 2}
    given = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    held, sys.argv = sys.argv, ["finetune.py", *given]
    try:
        finetune(*parse_arguments("One step."))
    finally:
        sys.argv = held
    AutoModelForImageTextToText.from_pretrained(folder / "tuned")


def push(folder: Path) -> None:
    """A checkpoint goes to the Hub on this machine and comes back."""
    import torch
    from transformers import AutoModelForImageTextToText

    from hmba_hf.hub import push_checkpoint

    sys.path.insert(0, str(TESTS / "hub"))
    from loopback_hub import LoopbackHub

    hub = LoopbackHub(HUB_SOCKET, folder / "xet")
    try:
        hub.reset()
        os.environ["HF_TOKEN"] = hub.token
        model, processor = _parts()
        push_checkpoint(model, processor, "org/smoke")
        pulled = AutoModelForImageTextToText.from_pretrained("org/smoke")
        weights = pulled.state_dict()
        assert all(torch.equal(weights[name], weight) for name, weight in model.state_dict().items())
        assert not hub.unhandled, f"the clients asked for what the Hub of the tests lacks: {hub.unhandled}"
    finally:
        hub.close()


STEPS = {step.__name__: step for step in (load, answer, stream, stream_on_any_base, save, carry_code, train, push)}
PACKAGES = ("transformers", "torch", "av", "numpy", "huggingface_hub", "accelerate", "peft")


def _parts() -> tuple:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import hmba_hf  # noqa: F401 - registers the model

    model, report = AutoModelForImageTextToText.from_pretrained(MICRO_BASE, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval(), AutoProcessor.from_pretrained(MICRO_BASE)


def _pipeline() -> object:
    from transformers import pipeline

    model, processor = _parts()
    return pipeline("video-text-to-text", model=model, processor=processor)


def _frames() -> list:
    from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig

    return list(MicroWorld(MicroWorldConfig(num_frames=5), "test", 1)[0].frames)


def _video(folder: Path) -> Path:
    from hmba_hf.data.micro_world.parquet import write_video

    path = folder / "dashcam.mp4"
    if not path.exists():
        write_video(path, [frame for frame in _frames() for _ in range(5)])
    return path


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def main() -> None:
    """Run the steps; the exit status is how many have failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for files; must exist")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=[*STEPS], help="steps to run")
    chosen = parser.parse_args()
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{HUB_SOCKET.getsockname()[1]}"
    os.environ.update({"HF_HOME": str(chosen.folder / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"})
    os.environ.update({"no_proxy": "127.0.0.1,localhost", "HF_HUB_DISABLE_TELEMETRY": "1"})
    print(json.dumps({"versions": _versions()}), flush=True)
    failed = 0
    for name in chosen.only:
        started, error = time.perf_counter(), None
        try:
            STEPS[name](chosen.folder)
        except Exception:  # whatever a release breaks is what is looked for; the other steps are tried all the same
            failed, error = failed + 1, traceback.format_exc()
        line = {"step": name, "seconds": round(time.perf_counter() - started, 1), "error": error}
        print(json.dumps(line), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
