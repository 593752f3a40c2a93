"""Does a masked batch cost what its visible tokens cost?

    python benchmarks/masked_step.py [--size small] [--output_dir runs/masked]
    python benchmarks/masked_step.py --device cuda --batch_size 16 --dtype bfloat16
    python benchmarks/masked_step.py --quick       # a tiny model, to see that all is well

A step of masked pre-training, forward and backward, at several shares of hidden patches, in turns with an unmasked
one. `encoder` is the blocks alone, `student` also embeds the clip, aligns the visible tokens and compares them with a
teacher's features, which are given. A ratio is the median over the turns. Wanted: at most 0.3 at 80 %. On one thread
the time is the processor's, which other work on the machine stretches less than that of the wall.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import hardware, in_turns, markdown, milliseconds, ratio, save
from torch import Tensor, nn

from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig
from hmba_hf.models.layers_video_masks import tube_mask
from hmba_hf.models.modeling_videomamba import VideoMambaForPreTraining

WANTED = 0.3


def encoder_step(model: Any, length: int, args: argparse.Namespace) -> Callable[[], None]:
    """Return a forward and backward pass of the blocks over so many tokens."""
    tokens = torch.randn(args.batch_size, length, model.config.hidden_size, device=args.device, requires_grad=True)

    def step() -> None:
        model.zero_grad()
        with torch.autocast(args.device, getattr(torch, args.dtype), enabled=args.dtype != "float32"):
            output, _ = model.videomamba.encoder(tokens)
        output.float().square().mean().backward()

    return step


def student_step(
    model: Any, clips: Tensor, mask: Tensor | None, features: Tensor, args: argparse.Namespace
) -> Callable[[], None]:
    """Return a forward and backward pass of a whole student."""

    def step() -> None:
        model.zero_grad()
        with torch.autocast(args.device, getattr(torch, args.dtype), enabled=args.dtype != "float32"):
            loss = model(clips, bool_masked_pos=mask, teacher_features=features).loss
        loss.backward()

    return step


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw how the time goes with the share of visible tokens."""
    for part in dict.fromkeys(record["part"] for record in records):
        mine = [record for record in records if record["part"] == part]
        axis.plot([record["share"] for record in mine], [record["ratio"] for record in mine], "o-", label=part)
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as the visible tokens")
    axis.axhline(WANTED, color="grey", linestyle="--", label=f"wanted at 80 %: {WANTED}")
    axis.set(xlabel="share of visible tokens", ylabel="time / unmasked", title="A masked step", ylim=(0, None))
    axis.legend()


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--num_frames", type=int, default=8)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument(
        "--masked", nargs="+", type=float, default=[0.5, 0.65, 0.8, 0.9], help="shares that are hidden"
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of autocast")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output_dir", help="for results.json and a plot")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 and args.device == "cpu" else time.perf_counter
    options: dict[str, Any] = {"num_frames": args.num_frames, "image_size": args.image_size}
    if args.quick:
        options = {"num_frames": 2, "image_size": 160, "hidden_size": 16, "num_hidden_layers": 2}
        args.repeats = 2
    config = VideoMambaConfig.of_size(args.size, **options)
    torch.manual_seed(0)
    model: nn.Module = VideoMambaForPreTraining(config).to(args.device).train()
    rows, columns = (side // patch for side, patch in zip(config.frame_size, config.patch_shape, strict=True))
    tokens = config.num_frames * rows * columns
    clips = torch.randn(args.batch_size, config.num_frames, 3, *config.frame_size, device=args.device)
    features = torch.randn(1, args.batch_size, 1 + tokens, config.alignment_size, device=args.device)

    lengths: dict[float, int] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for share in [0.0, *args.masked]:
        mask = None
        lengths[share] = 1 + tokens
        if share:
            mask = tube_mask(args.batch_size, config.num_frames, (rows, columns), share).to(args.device)
            lengths[share] -= int(mask[0].sum())
        runs[f"encoder {share}"] = encoder_step(model, lengths[share], args)
        runs[f"student {share}"] = student_step(model, clips, mask, features, args)
    for run in runs.values():  # compiles what is to be compiled
        run()
    times = in_turns(runs, args.repeats, args.device, clock)

    records = []
    for part in ("encoder", "student"):
        for share, length in lengths.items():
            measured = times[f"{part} {share}"]
            record = {"part": part, "masked": share, "tokens": length, "share": length / lengths[0.0]}
            record["times"] = measured
            record["ratio"] = ratio(measured, times[f"{part} 0.0"])
            records.append(record)
    print(
        f"{hardware(args.device)}; {torch.get_num_threads()} threads; {args.size}, {config.num_frames} frames of "
        f"{config.frame_size[0]} px, batch {args.batch_size}, {args.dtype}, medians of {args.repeats} turns\n"
    )
    shown = []
    for record in records:
        shown.append(
            {
                "part": record["part"],
                "masked": f"{record['masked']:.0%}",
                "tokens": record["tokens"],
                "of all": f"{record['share']:.3f}",
                "forward + backward": milliseconds(record["times"]),
                "time / unmasked": f"{record['ratio']:.3f}",
            }
        )
    print(markdown(shown))
    save(args.output_dir, {"arguments": vars(args), "records": records}, {"masked": lambda axis: draw(records, axis)})


if __name__ == "__main__":
    main()
