"""What does a stream cost after ten frames and after a hundred thousand, and what does it cost without one?

    python benchmarks/streaming.py --frames 100 1000 10000 100000 --output_dir runs/streaming
    python benchmarks/streaming.py --frames 4 8 --repeats 2          # seconds, to see that all is well

Four ways to follow a drive, all of the same sizes and with random weights. `window` and `recurrent` are the modes of
`VideoStream`. `sliding clip` is the same model given its last frames anew for each question. `every frame` is
transformers' LLaVA-OneVision with the same vision tower and language model, which is given all frames so far. The
tower is small; where more than `--real_tower` frames are wanted, random features take its place in the two modes, of
which all else runs as it is. Both modes are checked first: the window against the pipeline, the recurrent mode against
the adapter on the whole clip.

`frame, read` is the time from a frame to its features; the last frames before each number are read so, those before
them are not. `first token` is the time from a question to the first token of its answer. Medians, all in one run;
memory is resident, of a process for each way.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import torch
from measuring import MIB, hardware, markdown, save
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from hmba_hf import (
    HMBAConfig,
    HMBAForConditionalGeneration,
    HMBAProcessor,
    HMBAVideoProcessor,
    VideoStream,
    VideoTextToTextPipeline,
)

QUESTION = "Which object is the risk?"
VIDEO, PAD = "<video>", "<pad>"
SIDE, PATCH, WIDTH = 112, 14, 128
TOLERANCE = 1e-4  # float32, of the largest element


class RandomTower(nn.Module):
    """Stands in for a vision tower: features drawn once, whatever is shown."""

    def __init__(self, layers: int, patches: int, width: int, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.hidden_states = [torch.randn(1, patches, width, dtype=dtype) for _ in range(layers)]

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """Return the same for every frame."""
        return SimpleNamespace(hidden_states=[x.expand(len(pixel_values), -1, -1) for x in self.hidden_states])


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of single characters."""
    vocabulary = {chr(i): i for i in range(32, 127)} | {"<unk>": 127, "</s>": 128, VIDEO: 129, PAD: 130}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": PAD, "additional_special_tokens": [VIDEO]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def build_configs() -> tuple[CLIPVisionConfig, LlamaConfig]:
    """Return the sizes that all have."""
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 4}
    vision = CLIPVisionConfig(**sizes, num_hidden_layers=4, image_size=SIDE, patch_size=PATCH)
    text = LlamaConfig(
        **sizes, num_hidden_layers=4, vocab_size=160, pad_token_id=130, eos_token_id=128, max_position_embeddings=2**20
    )
    return vision, text


def build_ours() -> tuple[HMBAForConditionalGeneration, HMBAProcessor]:
    """Build H-MBA with random weights and an open gate, and its processor."""
    vision, text = build_configs()
    config = HMBAConfig(vision_config=vision, text_config=text, video_token_id=129, adapter_num_heads=4)
    model = HMBAForConditionalGeneration(config).eval()
    nn.init.normal_(model.model.temporal_adapter.gate, std=0.5)
    video_processor = HMBAVideoProcessor(size={"height": SIDE, "width": SIDE})
    return model, HMBAProcessor(video_processor, build_tokenizer(), patch_size=PATCH)


def build_every_frame() -> LlavaOnevisionForConditionalGeneration:
    """Build LLaVA-OneVision of the same sizes."""
    vision, text = build_configs()
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=131,
        video_token_index=129,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaOnevisionForConditionalGeneration(config).eval()


def draw_frame(i: int) -> Image.Image:
    """Draw the `i`-th frame of noise."""
    return Image.fromarray(np.random.default_rng(i).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))


@torch.no_grad()
def check(model: HMBAForConditionalGeneration, processor: HMBAProcessor) -> None:
    """Raise an `AssertionError` unless both modes give what they stand for."""
    frames = [draw_frame(i) for i in range(9)]
    window, recurrent = VideoStream(model, processor), VideoStream(model, processor, mode="recurrent")
    for i, frame in enumerate(frames):
        window.push(frame, i / 2)
        recurrent.push(frame, i / 2)
    pipe = VideoTextToTextPipeline(model=model, processor=processor, device=torch.device("cpu"))
    (wanted,) = pipe(videos=frames[-window.num_frames :], text=QUESTION, max_new_tokens=8)
    got = window.ask(QUESTION, max_new_tokens=8)
    assert got["generated_text"] == wanted["generated_text"], f"expected {wanted}, got {got}"
    pixels = processor.video_processor([frames], return_tensors="pt")["pixel_values_videos"]
    whole: Any = model.get_video_features(pixels).pooler_output
    features: Any = recurrent.features().pooler_output
    error = (features - whole).abs().max() / whole.abs().max()
    assert error <= TOLERANCE, f"expected an error of at most {TOLERANCE:g}, got {error:.1e}"


def milliseconds(call: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


def resident() -> float:
    """Return the memory of this process in MiB."""
    return psutil.Process().memory_info().rss / MIB


def follow(mode: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run a stream; read each of the last frames before the wanted numbers, and ask there."""
    model, processor = build_ours()
    check(model, processor)
    model.to(getattr(torch, args.dtype))
    if max(args.frames) > args.real_tower:
        layers = model.config.vision_config.num_hidden_layers + 1
        model.model.vision_tower = RandomTower(layers, model.config.num_patches, WIDTH, model.dtype)
    stream, frame, records = VideoStream(model, processor, mode=mode), draw_frame(0), []
    passed: list[float] = []
    read: list[float] = []
    for i in tqdm(range(1, max(args.frames) + 1), desc=mode, unit=" frames"):
        took = milliseconds(partial(stream.push, frame, i / 2))
        if any(n - args.around < i <= n for n in args.frames):
            read = [*read[1 - args.around :], took + milliseconds(stream.features)]
        else:
            passed = [*passed[1 - args.around :], took]
        if i in args.frames:
            asks = [milliseconds(partial(stream.ask, QUESTION, max_new_tokens=1)) for _ in range(args.repeats)]
            record = {"way": mode, "frames": i, "pass": statistics.median(passed), "frame": statistics.median(read)}
            features: Any = stream.features().pooler_output
            finite = bool(features.isfinite().all())
            note = "" if finite else "NaN or infinity"
            records.append({**record, "first token": statistics.median(asks), "memory": resident(), "note": note})
    return records


def slide(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Give the pipeline its last frames for each question, as one would without a stream."""
    model, processor = build_ours()
    pipe = VideoTextToTextPipeline(model=model, processor=processor, device=torch.device("cpu"))
    frames = [draw_frame(i) for i in range(processor.video_processor.num_frames)]
    records = []
    for n in args.frames:
        asks = [
            milliseconds(partial(pipe, videos=frames, text=QUESTION, max_new_tokens=1))
            for _ in range(args.repeats + 1)
        ]
        token = statistics.median(asks[1:])
        records.append({"way": "sliding clip", "frames": n, "first token": token, "memory": resident()})
    return records


@torch.no_grad()
def feed_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Give LLaVA-OneVision all frames for each question, to the length at which one would take too long."""
    model: Any = build_every_frame()
    records: list[dict[str, Any]] = []
    tokenizer, last = build_tokenizer(), 0.0
    question = tokenizer(QUESTION, return_tensors="pt").input_ids
    for n in args.frames:
        grown = (n / records[-1]["frames"]) ** 2 if records else 1.0
        if last * grown > 1e3 * args.max_seconds:
            records.append({"way": "every frame", "frames": n, "note": f"not run: above {args.max_seconds:g} s"})
            continue
        pixels = torch.randn(1, n, 3, SIDE, SIDE)
        tokens = n * (SIDE // PATCH // 2) ** 2 + 1  # pooled two by two, and a token that ends the video
        input_ids = torch.cat([torch.full((1, tokens), 129), question], dim=1)
        call = partial(model.generate, input_ids=input_ids, pixel_values_videos=pixels, max_new_tokens=1)
        asks = [milliseconds(call) for _ in range(args.repeats if last < 1e3 else 1)]
        last = statistics.median(asks)
        records.append({"way": "every frame", "frames": n, "first token": last, "memory": resident()})
    return records


def row(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record as a row of the table."""
    cells = {"way": record["way"], "frames": record["frames"]}
    for name, title in (("pass", "frame, unread"), ("frame", "frame, read"), ("first token", "first token")):
        cells[title] = f"{record[name]:.3g} ms" if name in record else ""
    cells["memory"] = f"{record['memory']:.0f} MiB" if "memory" in record else ""
    return {**cells, "note": record.get("note", "")}


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time to the first token over the number of frames."""
    for way in dict.fromkeys(record["way"] for record in records):
        mine = [r for r in records if r["way"] == way and "first token" in r]
        axis.plot([r["frames"] for r in mine], [r["first token"] for r in mine], "o-", label=way)
    axis.set(xscale="log", yscale="log", xlabel="frames so far", ylabel="milliseconds to the first token")
    axis.legend()


def in_own_process(way: Callable[[argparse.Namespace], Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run one way in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, args).result()


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 1000, 10000])
    parser.add_argument("--around", type=int, default=50, help="frames before each of these numbers that are read out")
    parser.add_argument("--repeats", type=int, default=7, help="questions at each number")
    parser.add_argument("--real_tower", type=int, default=1000, help="most frames that the tower is run on")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the two modes")
    parser.add_argument("--max_seconds", type=float, default=60, help="for one question to every frame")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    args.frames = sorted(args.frames)
    tower = "real" if max(args.frames) <= args.real_tower else "random features"
    machine = (
        f"{hardware()}; {torch.get_num_threads()} threads; d {WIDTH}, {(SIDE // PATCH) ** 2} patches, {args.dtype}"
    )
    print(f"{machine}; the modes' tower: {tower}\n")
    ways: list[Callable[[argparse.Namespace], Any]] = [
        partial(follow, "window"),
        partial(follow, "recurrent"),
        slide,
        feed_all,
    ]
    records = [record for way in ways for record in in_own_process(way, args)]
    print("\n" + markdown([row(record) for record in records]))
    save(
        args.output_dir,
        {"hardware": machine, "arguments": vars(args), "records": records},
        {"first_token": partial(draw, records)},
    )


if __name__ == "__main__":
    main()
