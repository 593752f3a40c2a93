"""How much faster is the adapter than at an earlier commit, and are its results the same?

    python benchmarks/adapter_baseline.py --baseline COMMIT --output_dir runs/adapter_baseline
    python benchmarks/adapter_baseline.py --baseline COMMIT --quick      # tiny sizes, to see that all is well

Two processes, one with the code of the commit and one with that of the working tree, run every case in turns: the same
random weights at H-MBA's width and the same random features in place of the tower's. The clock is that of the
processor, of one thread. `window` and `recurrent` are a stream's next frame, read out; `clip` is a forward pass over
five frames, `training` one with the gradients of all weights. Cases in bfloat16 stand beside the commit in float32.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import hardware, markdown, milliseconds, ratio, save

ROOT = Path(__file__).parents[1]
CASES = ("window", "recurrent", "clip", "training", "window bfloat16", "recurrent bfloat16", "clip bfloat16")
FRAMES = 5
TINY_TEXT: dict[str, Any] = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
TINY_TEXT |= {"num_attention_heads": 1, "vocab_size": 8, "pad_token_id": 0}


def build_model(dtype: torch.dtype, quick: bool) -> Any:
    """Build a model whose adapter alone is of the real size, and open what starts at zero."""
    from hmba_hf import HMBAConfig, HMBAForConditionalGeneration

    width, side = (64, 56) if quick else (1024, 224)
    vision = {"model_type": "clip_vision_model", "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": side, "patch_size": 14}
    torch.manual_seed(0)
    config = HMBAConfig(vision_config=vision, text_config=TINY_TEXT, video_token_id=7)
    model = HMBAForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.model.temporal_adapter.named_parameters():
            if not parameter.any():
                parameter.normal_(std=0.5 if name == "gate" else 0.02)
    return model.to(dtype).eval()


def build_case(name: str, quick: bool) -> Callable[[], torch.Tensor]:
    """Return a call of one case, which returns the features that it read."""
    dtype = torch.bfloat16 if name.endswith("bfloat16") else torch.float32
    model = build_model(dtype, quick)
    patches, width = model.config.num_patches, model.config.vision_config.hidden_size
    generator = torch.Generator().manual_seed(1)

    def frames(count: int) -> torch.Tensor:
        return torch.randn(1, count, patches, width, generator=generator).to(dtype)

    kind = name.split()[0]
    if kind in ("clip", "training"):
        clip = frames(FRAMES)
        weights = list(model.model.temporal_adapter.parameters())

        def train() -> torch.Tensor:
            features = model.adapt_frame_features(clip).last_hidden_state
            torch.autograd.grad(features.sum(), weights, allow_unused=True)
            return features.detach()

        if kind == "training":
            return train
        return torch.no_grad()(lambda: model.adapt_frame_features(clip).last_hidden_state)
    return stream_case(model, kind, frames)


def stream_case(model: Any, mode: str, frames: Callable[[int], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Return a call that pushes a frame into a stream whose window is full, and reads it."""
    from PIL import Image

    from hmba_hf import VideoStream
    from hmba_hf.models.processing_hmba import HMBAProcessor
    from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor
    from hmba_hf.streaming.encoders import EncodedFrame

    processor = HMBAProcessor.__new__(HMBAProcessor)
    processor.video_processor = HMBAVideoProcessor(num_frames=FRAMES, fps=2.0)
    processor.time_format = None
    stream = VideoStream(model, processor, mode)

    def encode(pushed: Any) -> Any:
        """Give features in the place of the tower's; older versions encode one frame, later ones a list."""
        if isinstance(pushed, list):
            return [EncodedFrame(frames(1)) for _ in pushed]
        return EncodedFrame(frames(1))

    stream._encoder.encode = encode
    picture = Image.new("RGB", (8, 8))
    seconds = iter(range(10**6))

    def step() -> torch.Tensor:
        stream.push(picture, next(seconds) / 2)
        return stream.features().last_hidden_state

    for _ in range(FRAMES):
        step()
    return step


def serve(quick: bool) -> None:
    """Run the cases that the other process names, a line for each, and answer with the seconds of the processor."""
    torch.set_num_threads(1)
    calls: dict[str, Callable[[], torch.Tensor]] = {}
    for line in sys.stdin:
        name, path = line.rstrip("\n").split("\t")
        if line not in calls:
            calls.clear()  # one case in memory
            calls[line] = build_case(name, quick)
            calls[line]()
        start = time.process_time()
        features = calls[line]()
        took = time.process_time() - start
        Path(path).write_bytes(features.float().numpy().tobytes())
        print(json.dumps(took), flush=True)


def source_of(commit: str) -> Path:
    """Write the package of a commit into a folder that keeps its kernels; return what goes on Python's path."""
    if Path(commit).is_dir():
        return Path(commit) / "src"
    folder = ROOT / ".cache" / "baselines" / commit
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def start(source: Path, quick: bool) -> subprocess.Popen[str]:
    """Start a process that serves the code of one source."""
    command = [sys.executable, __file__, "--serve", *["--quick"] * quick]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def ask(process: subprocess.Popen[str], name: str, path: Path) -> float:
    """Let a process run a case once; its features are then in a file."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{name}\t{path}\n")
    process.stdin.flush()
    return float(json.loads(process.stdout.readline()))


def compare(name: str, pair: dict[str, Any], folder: Path, repeats: int) -> dict[str, Any]:
    """Run one case by both in turns; the commit runs in float32 whatever the case."""
    times: dict[str, list[float]] = {"before": [], "now": []}
    features = {}
    for _ in range(repeats):
        for side, process in pair.items():
            case = name if side == "now" else name.removesuffix(" bfloat16")
            path = folder / f"{name} {side}"
            times[side].append(ask(process, case, path))
            features[side] = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.float32)
    largest = features["before"].abs().max()
    error = float((features["now"] - features["before"]).abs().max() / largest)
    return {"case": name, **times, "ratio": ratio(times["before"], times["now"]), "error": error}


def row(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as a row."""
    return {
        "case": record["case"],
        "before": milliseconds(record["before"]),
        "now": milliseconds(record["now"]),
        "before / now": f"{record['ratio']:.2f}",
        "difference": f"{record['error']:.0e}",
        "runs": len(record["now"]),
    }


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the ratios."""
    axis.barh([record["case"] for record in records], [record["ratio"] for record in records])
    axis.set(xlabel="times faster", title="Temporal adapter, beside the earlier commit")
    axis.axvline(1, color="black")


def main() -> None:
    """Run both in turns, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", help="the earlier commit, or a folder with a clone of it")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve(args.quick)
    if args.baseline is None:
        parser.error("--baseline must be a commit")
    machine = f"{hardware()}; one thread; {'tiny' if args.quick else 'd 1024, 256 patches'}, random weights"
    print(f"{machine}; baseline {args.baseline}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = {
            "before": start(source_of(args.baseline), args.quick),
            "now": start(ROOT / "src", args.quick),
        }
        records = []
        for case in args.cases:
            records.append(compare(case, pair, folder, args.repeats))
            print(f"{case}: {records[-1]['ratio']:.2f} times faster", file=sys.stderr, flush=True)
        for process in pair.values():
            process.communicate()
    print(markdown([row(record) for record in records]))
    results = {"hardware": machine, "arguments": vars(args), "records": records}
    save(args.output_dir, results, {"ratios": lambda axis: draw(records, axis)})


if __name__ == "__main__":
    main()
