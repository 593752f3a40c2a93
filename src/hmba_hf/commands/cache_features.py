"""Run a frozen vision tower once over every frame of a dataset; `hmba finetune --feature_cache` reads its features.

    hmba cache-features --model org/hmba-base --dataset_name org/drama \\
        --output_dir features --dtype bfloat16
    hmba finetune ... --feature_cache features --bf16 True

The same command adds missing features and tries unreadable clips again. Another dataset or split adds to the cache,
too. A cache of another tower, another preparation of frames or another dtype is refused, here and in training.

On a vision-language model, features are what its language model reads of each frame. `hmba finetune` still lets it
encode the current frames.

Losses with and without a cache are the same in one precision. With `--bf16`, a run without a cache computes the tower
in mixed precision, and one with a cache of bfloat16 differs from it by rounding.

`--accelerate_config ddp`, `--num_processes 2` and others are options of Accelerate's launcher.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState

import hmba_hf  # noqa: F401 - registers the model
from hmba_hf.commands.parsing import check_counts, command_parser
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.messages import run_command, show_messages
from hmba_hf.tasks.answering.arguments import ClipArguments
from hmba_hf.tasks.answering.base_model import load_encoder
from hmba_hf.tasks.answering.features import frame_features
from hmba_hf.tasks.answering.run import training_sources


def main(words: Sequence[str] | None = None) -> None:
    """Load the tower, cache its features, print their number."""
    show_messages()
    parser = command_parser(ClipArguments, program="hmba cache-features", description=__doc__)
    parser.add_argument("--model", required=True, help="folder or Hub id of a model, or of its base")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the cache")
    parser.add_argument(
        "--dtype", default="auto", help="of the tower and its features; that of the checkpoint for auto"
    )
    parser.add_argument("--num_frames", type=int, default=None, help="frames of a clip; the model's when absent")
    parser.add_argument("--batch_size", type=int, default=8, help="clips that go through the tower at once")
    parser.add_argument("--block_size", type=int, default=256, help="clips in a file")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--seed", type=int, default=42, help="of `hmba finetune`, for --stream_frames")
    parser.add_argument("--use_cpu", action="store_true", help="also where there is a GPU")
    clip_args, args = parser.parse_args_into_dataclasses(words)
    check_counts(parser, args, "num_frames", "batch_size", "block_size")
    check_counts(parser, args, "num_workers", least=0)

    # Without `cpu`, processes on a machine without an accelerator would form no group.
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    model, processor = load_encoder(args.model, args.dtype)
    model = model.to(state.device)
    processor.video_processor.num_frames = args.num_frames or model.config.num_frames
    processor.video_processor.set_source_rules(**clip_args.rules)

    bad = BadSamples(clip_args.on_error, args.output_dir / "bad_samples.jsonl")
    writer = frame_features(model, processor).writer(
        folder=args.output_dir,
        bad=bad,
        batch_size=args.batch_size,
        block_size=args.block_size,
        num_workers=args.num_workers,
    )
    with writer.hold():
        if state.is_main_process:
            bad.forget()
        state.wait_for_everyone()
        for samples in training_sources(clip_args, args.seed, processor):
            counts = writer.write(samples)
            if state.is_main_process:
                print(f"{len(samples)} samples: {counts['made']} clips made, {counts['cache']} in {args.output_dir}")
    if state.is_main_process and (skipped := bad.skipped()):
        print(f"{len(skipped)} could not be read and are left out; see {bad.record}")


if __name__ == "__main__":
    run_command(main)
