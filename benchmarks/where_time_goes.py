"""Where does the time go when a model is trained, follows a stream, or predicts?

    python benchmarks/where_time_goes.py train --output_dir runs/where
    python benchmarks/where_time_goes.py stream
    python benchmarks/where_time_goes.py predict --sizes real --layers 2
    python benchmarks/where_time_goes.py predict --quick      # tiny sizes, to see that all is well

Each runs as its command does, through the same reader, processor, trainer, stream and prediction files, and a clock
parts its time into stages (see `stage_clock`). The last stage, `rest`, is what no other explains. Two sizes: the micro
base, with the recipe of `hmba demo` and the tuned micro model, and the real widths with random weights, of whose
language model `--layers` layers are there. Videos are drawn: 720p, 25 pictures a second, a keyframe every 5 seconds.

- `train`: a step; `first visit` draws or decodes each clip and runs the tower, `kept` has the features in memory. At
  the real size each clip is decoded anew, the language model learns by low-rank updates, and a batch is one clip.
- `stream`: half a second of video, of which the stream takes one frame, that is read, or asked about.
- `predict`: a clip of five frames at some time of the file, and its answer.

Values are medians over the steps, of the processor, with a GPU of the wall (`results.json` has both); saving is shared
out over the steps from one to the next. First steps, in which kernels are compiled or loaded, stand apart. `without
stages` are the same steps with nothing measured inside, at the micro base.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from measuring import hardware, keep_memory, markdown, save
from PIL import Image
from stage_clock import Lap, StageClock, attach, timed_backward, wrapped
from stage_tables import DECODING, OPENING, SAVING, SHAPING, Case, draw, rows_of, summarise, with_all_layers
from torch import nn
from transformers import AutoProcessor, BatchFeature, Trainer, TrainerCallback

from hmba_hf import (
    HMBAConfig,
    HMBAForConditionalGeneration,
    HMBAProcessor,
    HMBAVideoProcessor,
    VideoStream,
    iter_frames,
)
from hmba_hf.commands.demo import BASE, TUNED, finetuning_words, quiet
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.clips import ClipWriter
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.data.samples import RISK_QUESTION, Sample
from hmba_hf.evaluation.predicting import write_predictions
from hmba_hf.evaluation.prediction_files import PredictionFolder
from hmba_hf.evaluation.splits import Splits
from hmba_hf.families import find_task, load_model
from hmba_hf.models import decoding_reader, decoding_streams, video_processing_hmba
from hmba_hf.models.decoding_needed import PlainStretch
from hmba_hf.models.decoding_packets import VideoPackets
from hmba_hf.models.decoding_reader import VideoReader
from hmba_hf.models.decoding_streams import OpenVideo
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.prediction import PredictionArguments
from hmba_hf.tasks.answering.run import finetune
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training.parts import LoraSettings, learn

RATE, KEYFRAMES = 25, 125  # pictures a second, and from one keyframe to the next
SAVED_EVERY = 500  # steps, at the real size: the default of transformers
ANSWER_TOKENS = 16  # of the real size, whose answers mean nothing


def first_or_clip(clock: StageClock, *args: Any) -> str:
    """Tell pictures that are decoded to find the origin of the clock from those of a clip."""
    return f"{DECODING} / {'first pictures' if clock.stage == f'{OPENING} / open' else 'clip'}"


# What is timed of the code that all three run, and its stage.
PLACES: list[Any] = [
    (video_processing_hmba, "decode_frames", f"{OPENING} / rest"),
    (VideoReader, "__init__", f"{OPENING} / open"),
    (VideoReader, "read", f"{OPENING} / seek and times"),
    (VideoReader, "_plain_scan", f"{OPENING} / seek and times"),
    (OpenVideo, "decode", first_or_clip),
    (PlainStretch, "_decoded", f"{DECODING} / clip"),
    (VideoPackets, "__iter__", f"{DECODING} / packets"),
    (decoding_reader, "picture_or_error", f"{SHAPING} / to RGB"),
    (decoding_streams, "picture_or_error", f"{SHAPING} / to RGB"),
    (video_processing_hmba, "resize_squared", f"{SHAPING} / resize"),
    (HMBAVideoProcessor, "rescale", f"{SHAPING} / rescale"),
    (HMBAVideoProcessor, "normalize", f"{SHAPING} / normalise"),
    (HMBAVideoProcessor, "preprocess", f"{SHAPING} / rest"),
    (HMBAProcessor, "apply_chat_template", "text"),
    (HMBAProcessor, "batch_decode", "text"),
    (HMBAProcessor, "join", "collate"),
    (HMBAForConditionalGeneration, "generate", "generation, besides the model"),
    (MicroWorld, "read_sample", "draw"),
    (PredictionFolder, "append", SAVING),
    (SampleCollator, "__call__", "collate"),
    (BatchFeature, "to", "copy"),
    (Trainer, "_prepare_inputs", "copy"),
    (AdapterTrainer, "_save_checkpoint", SAVING),
    (Accelerator, "clip_grad_norm_", "optimizer"),
    (AcceleratedOptimizer, "step", "optimizer"),
    (AcceleratedOptimizer, "zero_grad", "optimizer"),
]


@contextmanager
def stages(clock: StageClock, is_parted: bool) -> Iterator[None]:
    """Part what the body runs into stages, or leave it as it is."""
    if not is_parted:
        yield
        return
    backward = Accelerator.backward
    with wrapped(clock, PLACES):
        Accelerator.backward = timed_backward(clock, backward)
        try:
            yield
        finally:
            Accelerator.backward = backward


@cache
def draw_world(width: int, height: int) -> np.ndarray:
    """Draw the texture that a drive passes by."""
    numbers = np.random.default_rng(0)
    coarse = numbers.integers(40, 200, (height // 16, width // 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((4 * width, height), Image.Resampling.BICUBIC))
    return smooth + numbers.integers(-12, 12, smooth.shape[:2], dtype=np.int16)[..., None]


@cache
def draw_noise(number: int, width: int, height: int) -> np.ndarray:
    """Draw the noise of a camera."""
    return np.random.default_rng(number).integers(-3, 4, (height, width, 3), dtype=np.int16)


def draw_picture(index: int, width: int, height: int) -> np.ndarray:
    """Draw a picture of a drive: a world that passes by, a car in it, and noise."""
    left = 3 * index % (3 * width)
    view = draw_world(width, height)[:, left : left + width].copy()
    top = height // 2
    start = 5 * index % (width - width // 6)
    view[top : top + height // 6, start : start + width // 6] = (200, 30, 30)
    view += draw_noise(index % 8, width, height)
    return view.clip(0, 255).astype(np.uint8)


def write_drive(path: Path, width: int, height: int, seconds: int) -> Path:
    """Write a video of a drive in H.264."""
    options = {"crf": "23", "preset": "veryfast"}
    writer = ClipWriter(path, (width, height), Fraction(RATE), options, keyframe_every=KEYFRAMES)
    for index in range(RATE * seconds):
        writer.write(av.VideoFrame.from_ndarray(draw_picture(index, width, height), format="rgb24"))
    writer.close()
    return path


def clips_of(drive: Path, seconds: int, count: int) -> list[Sample]:
    """Ask about a drive at times all over it, always the same ones."""
    times = np.random.default_rng(1).uniform(2, seconds - 1, count)
    answer = "A red car is cutting in"
    return [
        Sample(id=str(i), question=RISK_QUESTION, answer=answer, video=drive, timestamp=float(time))
        for i, time in enumerate(times)
    ]


def build_real(args: argparse.Namespace) -> tuple[Any, HMBAProcessor]:
    """Build the real widths with random weights, an open gate and few layers of a language model."""
    tokenizer = AutoProcessor.from_pretrained(BASE).tokenizer
    text: dict[str, Any] = {"model_type": "llama", "num_hidden_layers": args.layers, "vocab_size": 32000}
    text |= {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    vision: dict[str, Any] = {}
    size = 224
    if args.quick:
        text |= {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
        size = 28
        vision = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        vision |= {"image_size": size, "patch_size": 14}
    config = HMBAConfig(
        text_config={**text, "pad_token_id": tokenizer.pad_token_id},
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        **({"vision_config": {"model_type": "clip_vision_model", **vision}} if vision else {}),
    )
    torch.manual_seed(0)
    model = HMBAForConditionalGeneration(config)
    nn.init.normal_(model.model.temporal_adapter.gate, std=0.5)
    processor = HMBAProcessor(HMBAVideoProcessor(size={"height": size, "width": size}), tokenizer, patch_size=14)
    processor.chat_template = AutoProcessor.from_pretrained(BASE).chat_template
    return model.to(getattr(torch, args.dtype)), processor


def build(size: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """Return a model that answers, and its processor."""
    if size == "real":
        model, processor = build_real(args)
    else:
        model = load_model(TUNED, dtype=getattr(torch, args.dtype))
        processor = AutoProcessor.from_pretrained(TUNED)
    return model.to(args.device).eval(), processor


class Steps(TrainerCallback):
    """Ends a lap with each step of a training, and hooks its model where stages are wanted."""

    def __init__(self, clock: StageClock, is_parted: bool):
        self.clock = clock
        self.is_parted = is_parted
        self.laps: list[Lap] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Begin the first lap."""
        if self.is_parted:
            attach(self.clock, model)
        self.clock.lap()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the lap of the step before: its checkpoint is saved by now."""
        if state.global_step:
            self.laps.append(self.clock.lap())

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the last one."""
        self.laps.append(self.clock.lap())


def train_micro(adapter: str, args: argparse.Namespace, is_parted: bool, kept: Any) -> tuple[list[Lap], Any, int]:
    """Fine-tune the micro base as `hmba demo` does, in two epochs.

    Returns:
        A lap for each step, the clips, and after how many steps the demo saves.
    """
    clock = StageClock(args.device)
    steps = Steps(clock, is_parted)
    with tempfile.TemporaryDirectory() as folder, quiet(), stages(clock, is_parted):
        words = finetuning_words(Path(folder), adapter, 2 * args.steps)
        batch = int(words[words.index("--per_device_train_batch_size") + 1])
        words += ["--max_train_samples", str(batch * args.steps), "--use_cpu", str(args.device == "cpu")]
        every = int(words[words.index("--save_steps") + 1])
        words += ["--save_steps", str(args.steps), "--disable_tqdm", "True"]
        trainer = finetune(*parse_arguments("", words), clips=kept, progress=steps)
    return steps.laps, trainer.train_dataset, every


def train_real(args: argparse.Namespace, is_parted: bool) -> list[Lap]:
    """Train adapter and projector, and the language model by low-rank updates, on clips of files."""
    clock = StageClock(args.device)
    steps = Steps(clock, is_parted)
    model, processor = build_real(args)
    count = args.laps + 1
    with tempfile.TemporaryDirectory() as folder, quiet(), stages(clock, is_parted):
        words = ["--model", str(BASE), "--output_dir", folder, "--dataset_name", "micro-world"]
        words += ["--max_steps", str(count), "--per_device_train_batch_size", "1", "--save_steps", str(count)]
        words += ["--use_cpu", str(args.device == "cpu"), "--disable_tqdm", "True"]
        _, _, options = parse_arguments("", words)
        collator = SampleCollator(processor)
        learning, _ = learn(model, ["adapter", "projector", "lora"], LoraSettings())
        clips = clips_of(args.drive, args.seconds, count + 2)  # the loader reads ahead
        trainer = AdapterTrainer(
            model=learning,
            args=options,
            train_dataset=EncodedSamples(clips, collator, BadSamples("stop")),
            data_collator=collator,
            processing_class=processor,
            callbacks=[steps],
        )
        trainer.train()
    return steps.laps


def train(size: str, args: argparse.Namespace) -> list[Case]:
    """Measure steps of training."""
    if size == "real":
        return [Case("every visit", train_real(args, is_parted=True)[1:], [], saved_every=SAVED_EVERY)]
    parted: dict[str, list[Lap]] = {}
    bare_laps, _, every = train_micro("mamba", args, is_parted=False, kept=None)
    kept = None
    for adapter in ("mamba", "none"):
        parted[adapter], kept, _ = train_micro(adapter, args, is_parted=True, kept=kept)
    first = bare_laps[0].whole
    print(f"first step: {first['processor']:.2f} s of the processor, {first['wall']:.2f} s of the wall\n")
    warm = min(2, args.steps - 1)
    visits = slice(warm, args.steps)
    later = slice(args.steps + warm, None)
    return [
        Case("H-MBA, first visit", parted["mamba"][visits], bare_laps[visits], saved_every=every),
        Case("H-MBA, kept", parted["mamba"][later], bare_laps[later], saved_every=every),
        Case("current frame, kept", parted["none"][later], [], saved_every=every),
    ]


def follow(
    mode: str, is_asked: bool, model: Any, processor: Any, args: argparse.Namespace, is_parted: bool
) -> list[Lap]:
    """Follow a drive, and read or ask about each frame that the stream takes; return a lap for each of these."""
    clock = StageClock(args.device)
    laps: list[Lap] = []
    handles = attach(clock, model) if is_parted else []
    with stages(clock, is_parted):
        stream = VideoStream(model, processor, mode=mode)
        answer = generation_of(model)
        for seconds, frame in iter_frames(args.drive):
            with clock.stage_of(f"{SHAPING} / to a picture of Pillow") if is_parted else no_stage():
                picture = Image.fromarray(frame)
            if stream.push(picture, seconds):
                if is_asked:
                    stream.ask(RISK_QUESTION, **answer)
                else:
                    stream.features()
                laps.append(clock.lap())
            if len(laps) > args.laps:
                break
    for handle in handles:
        handle.remove()
    return laps[1:]


@contextmanager
def no_stage() -> Iterator[None]:
    """Measure nothing."""
    yield


def generation_of(model: Any) -> dict[str, Any]:
    """Return the options of an answer: its own length, or a fixed one where weights are random."""
    if model.config.text_config.vocab_size < 1000:
        return {"max_new_tokens": 64}
    return {"max_new_tokens": ANSWER_TOKENS, "min_new_tokens": ANSWER_TOKENS}


def stream(size: str, args: argparse.Namespace) -> list[Case]:
    """Measure streams, moment by moment."""
    model, processor = build(size, args)
    cases = []
    ways = [("window", False), ("recurrent", False), ("recurrent", True)]
    for mode, is_asked in ways:
        bare = [] if size == "real" else follow(mode, is_asked, model, processor, args, is_parted=False)
        parted = follow(mode, is_asked, model, processor, args, is_parted=True)
        name = f"{mode}, {'asked' if is_asked else 'read'}"
        cases.append(Case(name, parted, bare, unit="moment"))
    return cases


def predict_files(
    size: str, model: Any, processor: Any, batch: int, args: argparse.Namespace, is_parted: bool
) -> list[Lap]:
    """Predict about clips of a file, as `hmba predict` does; return a lap for each batch."""
    clock = StageClock(args.device)
    laps: list[Lap] = []
    append = PredictionFolder.append

    def append_and_lap(folder: Any, records: Any) -> None:
        (measured if is_parted else append)(folder, records)
        laps.append(clock.lap())

    handles = attach(clock, model) if is_parted else []
    with tempfile.TemporaryDirectory() as folder, quiet(), stages(clock, is_parted):
        measured = PredictionFolder.append
        PredictionFolder.append = append_and_lap
        try:
            arguments = PredictionArguments(model=size, output_dir=folder, batch_size=batch)
            clips = Splits({"test": clips_of(args.drive, args.seconds, batch * (args.laps + 1))})
            task = find_task("answering")
            write_predictions(arguments, task, model, processor, clips, generation_of(model))
        finally:
            PredictionFolder.append = measured
    for handle in handles:
        handle.remove()
    return laps[1:]


def predict(size: str, args: argparse.Namespace) -> list[Case]:
    """Measure predictions, clip by clip."""
    model, processor = build(size, args)
    batch = 1 if size == "real" else args.batch
    bare = [] if size == "real" else predict_files(size, model, processor, batch, args, is_parted=False)
    parted = predict_files(size, model, processor, batch, args, is_parted=True)
    return [Case("a clip of a file", parted, bare, steps=batch, unit="clip")]


COMMANDS: dict[str, Callable[..., list[Case]]] = {"train": train, "stream": stream, "predict": predict}


def main() -> None:
    """Draw a drive, measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--sizes", nargs="+", choices=["micro", "real"], default=["micro", "real"])
    parser.add_argument("--steps", type=int, default=12, help="of training in each of two epochs, at the micro base")
    parser.add_argument("--laps", type=int, default=4, help="batches, moments, and steps of training at the real size")
    parser.add_argument("--batch", type=int, default=4, help="clips that the micro base predicts at once")
    parser.add_argument("--layers", type=int, default=2, help="of the language model at the real size")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--video", type=Path, help="where the drive is drawn, unless it is there already")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    width, height, args.seconds = 1280, 720, 40
    if args.quick:
        width, height, args.seconds = 160, 96, 9
        args.steps, args.laps, args.batch, args.layers = 2, 2, 2, 1
    keep_memory()
    torch.set_num_threads(args.threads)
    machine = f"{hardware(args.device)}; {args.threads} threads, {args.dtype}; {args.layers} layers at the real size"
    print(f"{machine}\n")
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        args.drive = args.video or Path(folder) / "drive.mp4"
        if not args.drive.exists():
            write_drive(args.drive, width, height, args.seconds)
        for size in args.sizes:
            cases = COMMANDS[args.command](size, args)
            known = {"command": args.command, "size": size, "clock": "wall" if args.device == "cuda" else "processor"}
            found = [{**known, **summarise(case)} for case in cases]
            if size == "real":
                found = [{**record, **with_all_layers(record, args.layers)} for record in found]
            print(f"{args.command}, {size}, for a {found[0]['unit']}; medians of {found[0]['laps']} laps\n")
            print(markdown(rows_of(found)) + "\n")
            records += found
    unit = 1 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    print(f"peak resident memory {peak:.1f} GiB")
    results = {
        "hardware": machine,
        "arguments": {name: str(value) for name, value in vars(args).items()},
        "records": records,
    }
    save(args.output_dir, results, {f"where_time_goes_{args.command}": partial(draw, records)})


if __name__ == "__main__":
    main()
