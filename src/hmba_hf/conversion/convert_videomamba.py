"""Convert VideoMamba to a checkpoint of this package, and back.

    # pictures, and clips of Kinetics-400, Something-Something, Breakfast or COIN: sizes and classes are the file's own
    hmba convert videomamba --checkpoint videomamba_t16_in1k_res224.pth --output_dir ours
    hmba convert videomamba --checkpoint videomamba_m16_k400_f16_res224.pth --labels k400.json \\
        --output_dir ours
    # masked pre-training, to go on with or to fine-tune for 174 classes, whose classifier is new
    hmba convert videomamba --checkpoint videomamba_m16_k400_mask_pt_f8_res224.pth --output_dir ours
    hmba convert videomamba --checkpoint videomamba_m16_k400_mask_pt_f8_res224.pth --num_labels 174 \\
        --output_dir ours
    # from pictures to clips of 8 frames, and from 8 frames at 224 to 64 at 384
    hmba convert videomamba --checkpoint videomamba_s16_in1k_res224.pth --num_frames 8 \\
        --output_dir ours
    hmba convert videomamba --checkpoint videomamba_s16_k400_f8_res224.pth --num_frames 64 \\
        --image_size 384 --output_dir ours
    # the multi-modal stage, and its vision half alone with all the rest kept beside it
    hmba convert videomamba --checkpoint videomamba_m16_25M_f8_res224.pth --output_dir ours
    hmba convert videomamba --checkpoint videomamba_m16_25M_f8_res224.pth --vision_half \\
        --keep_unused --output_dir ours
    # back to the original's names
    hmba convert videomamba --checkpoint ours --to_original --output_dir theirs

A checkpoint is a file (.pth, .pt, .bin or .safetensors), a folder, or on the Hub `org/name`, `org/name/file.pth` or
`org/name@revision/file.pth`. No code in it is run. Names may begin with `backbone.` or `encoder.`, which the way back
leaves out. The result holds processor, code and card, and is written one tensor at a time, whole or not at all.
`--verify` reads it again, and compares every tensor with its origin and the backbone with a plain restatement of the
original. `--verify RECORDED` also compares the model with recorded numbers of the original code (see
`hmba_hf.conversion.verification`).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hmba_hf.conversion.checkpoint_folders import (
    UNUSED,
    Checkpoint,
    blank_model,
    kept_tensors,
    wanted_tensors,
    whole_folder,
    write_checkpoint,
    write_shards,
)
from hmba_hf.conversion.converter_commands import (
    asked_dtype,
    conversion_parser,
    parse_either_way,
    read_model_type,
    report_recorded,
    report_unused,
    run_conversion,
    write_originals,
)
from hmba_hf.conversion.foreign_checkpoints import card_name
from hmba_hf.conversion.rename_keys import Rule, plan_originals, plan_renaming, single_dtype
from hmba_hf.conversion.tensor_files import FileTensors, local_path, parse_hashes
from hmba_hf.conversion.tensor_sources import (
    Change,
    ChangedTensors,
    JoinedTensors,
    OriginalTensors,
    RelabeledTensors,
    RenamedTensors,
    Tensors,
)
from hmba_hf.conversion.verification import compare_backbones, compare_tensors, recompute_videomamba
from hmba_hf.conversion.videomamba_fitting import fit
from hmba_hf.conversion.videomamba_names import (
    BASE,
    VISION_HALF,
    bare_names,
    is_multi_modal,
    retrieval_rules,
    videomamba_rules,
)
from hmba_hf.conversion.videomamba_plans import BERT, Original, Plan, build_processor, plan_model
from hmba_hf.conversion.videomamba_sizes import PATCHES, read_sizes
from hmba_hf.hub import CardDetails
from hmba_hf.messages import run_command
from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig, VideoMambaRetrievalConfig

CONFIGURATIONS = {config.model_type: config for config in (VideoMambaConfig, VideoMambaRetrievalConfig)}
# Classes that the original code has, too.
ARCHITECTURES = (
    "VideoMambaModel",
    "VideoMambaForImageClassification",
    "VideoMambaForVideoClassification",
    "VideoMambaForPreTraining",
    "VideoMambaForVideoTextRetrieval",
)


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__, program="hmba convert videomamba")
    parser.add_argument("--seed", type=int, default=0, help="of new weights")
    parser.add_argument("--size", choices=sorted(SIZES), help="refuse a checkpoint of another size")
    parser.add_argument("--num_frames", type=int, help="of a clip; default: the checkpoint's")
    parser.add_argument(
        "--image_size",
        type=int,
        nargs="+",
        help="of a frame, one number or height and width; default: the checkpoint's",
    )
    parser.add_argument(
        "--tubelet_size", type=int, help="frames of a token, for pictures that become clips; default: 1"
    )
    parser.add_argument("--num_labels", type=int, help="classes; default: the checkpoint's")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes: JSON, CSV or one a line")
    parser.add_argument("--label_map", type=Path, metavar="FILE", help="classes to keep, a JSON list of their numbers")
    parser.add_argument("--new_head", action="store_true", help="draw a new classifier in any case")
    parser.add_argument(
        "--alignment_interval", type=int, help="between the layers that pre-training aligns; default: 1"
    )
    parser.add_argument("--vision_half", action="store_true", help="of the multi-modal stage, for pre-training")
    parser.add_argument("--num_attention_heads", type=int, help="of the text half; default: one for 64 channels")
    parser.add_argument("--tokenizer", help=f"of the text half, a folder or Hub id; default: {BERT}")
    return parse_either_way(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """Convert in either direction."""
    run_conversion(parse_arguments(words), convert, export)


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    original = read_original(args)
    plan = plan_model(args, original)
    model = blank_model(plan.model_class, plan.config)
    fitted = fit(original.tensors, original.sizes, plan.vision, head=plan.head, seed=args.seed)
    renaming = plan_renaming(fitted.specs, plan.rules, wanted_tensors(model))
    asked = asked_dtype(args)
    tensors = RenamedTensors(fitted, renaming, asked)
    checkpoint = Checkpoint(
        model=model,
        tensors=tensors,
        dtype=asked or single_dtype(fitted.specs, renaming),
        processor=build_processor(args, plan),
        card=CardDetails(license=args.license, origin=origin(args, plan)),
    )
    unused = [original.stored[name] for name in renaming.unused]
    report(original, plan, unused, args.keep_unused)
    with whole_folder(args.output_dir) as folder:
        if args.keep_unused and unused:
            stored = RelabeledTensors(original.tensors, {original.stored[name]: name for name in renaming.unused})
            write_shards(folder, stored, args.max_shard_size, name=UNUSED)
        write_checkpoint(folder, args.output_dir.resolve().name, checkpoint, args.max_shard_size)
        if args.verify is not None:
            verify(folder, args.verify, tensors)


def read_original(args: argparse.Namespace) -> Original:
    """Open a checkpoint of the original code.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged, or of another family or size.
    """
    files = FileTensors(local_path(args.checkpoint), parse_hashes(args.sha256))
    stored = bare_names(files.specs)
    tensors = RelabeledTensors(files, stored)
    sizes = read_sizes(tensors.specs)
    if args.size is not None and (sizes.hidden_size, sizes.num_hidden_layers) != SIZES[args.size]:
        width, depth = SIZES[args.size]
        raise ValueError(
            f"the checkpoint must be of the size {args.size!r}, {depth} blocks of width {width}, "
            f"got {sizes.num_hidden_layers} of width {sizes.hidden_size}"
        )
    return Original(tensors=tensors, stored=stored, sizes=sizes, is_multi_modal=is_multi_modal(files.specs))


def report(original: Original, plan: Plan, unused: list[str], are_kept: bool) -> None:
    """Print what the model does not use, and what of it is new."""
    report_unused(unused, are_kept)
    if original.is_multi_modal and plan.config is plan.vision:
        print("only the vision half is converted, without text, fusion and pooling")
    if plan.head is not None and plan.head.rows is None:
        print(f"new and not trained: a classifier of {plan.head.num_labels} classes")
    if original.sizes.num_times is None and plan.vision.num_frames > 1:
        print("new and zero: temporal_pos_embedding")


def origin(args: argparse.Namespace, plan: Plan) -> str:
    """Describe the origin of the checkpoint for its card."""
    text = f"Made of `{card_name(args.checkpoint)}` by `hmba convert videomamba` of hmba-hf."
    if plan.head is not None and plan.head.rows is None:
        return f"{text} Its classifier is new: fine-tune it before you ask it anything."
    return text


def verify(folder: Path, recorded: str, tensors: RenamedTensors) -> None:
    """Compare the written checkpoint with the original, and print the result.

    Raises:
        ValueError: if they differ.
    """
    print(f"verified: {compare_tensors(folder, tensors)} tensors equal their origins")
    error = compare_backbones(folder, backbone_weights(tensors))
    print(f"verified: the backbone reproduces the original's tokens to {error:.1e} in double precision")
    report_recorded(folder, recorded, recompute_videomamba)


def backbone_weights(tensors: RenamedTensors) -> dict[str, torch.Tensor]:
    """Read the backbone under the original's names, rounded as the conversion rounds it."""
    weights = {}
    for ours, origins in tensors.renaming.origins.items():
        if ours.removeprefix("vision_model.").startswith(BASE):
            (original,) = origins
            weights[original.name] = tensors.source.read(original.name).to(tensors.specs[ours].dtype)
    return weights


def export(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package under the names of the original code.

    Raises:
        ValueError: if the original code has no such model.
    """
    path = local_path(args.checkpoint)
    config = original_config(path)
    architecture = config.architectures[0]
    ours = FileTensors(path, parse_hashes(args.sha256))
    unused = kept_tensors(path)
    is_half = is_multi_modal(unused.specs) and architecture != "VideoMambaForVideoTextRetrieval"
    originals: Tensors = OriginalTensors(ours, plan_originals(ours.specs, rules_back(config, is_half)))
    if architecture == "VideoMambaForImageClassification":
        originals = ChangedTensors(originals, {PATCHES: flattening(originals.specs[PATCHES].shape)})
    if is_half:
        originals = RelabeledTensors(originals, {f"{VISION_HALF}{name}": name for name in originals.specs})
    originals = JoinedTensors(originals, unused)
    write_originals(args, originals)


def original_config(path: Path) -> Any:
    """Read the configuration of a checkpoint of this package.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if the original code has no such model.
    """
    model_type = read_model_type(path)
    if model_type not in CONFIGURATIONS:
        raise ValueError(f"{path} must be of a VideoMamba, got one of {model_type!r}")
    config = CONFIGURATIONS[model_type].from_pretrained(path)
    scan_type = getattr(config, "vision_config", config).scan_type
    if scan_type != "spatial_first":
        raise ValueError(f"scan_type must be 'spatial_first', as in the original code, got {scan_type!r}")
    architecture = config.architectures[0] if config.architectures else None
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architectures must be of {ARCHITECTURES}, which the original code has, got {architecture}")
    return config


def rules_back(config: Any, is_half: bool) -> list[Rule]:
    """Return the table of the way back.

    Args:
        config: of the checkpoint.
        is_half: whether it is the vision half of the multi-modal stage.
    """
    architecture = config.architectures[0]
    if architecture == "VideoMambaForVideoTextRetrieval":
        return retrieval_rules(config.num_text_layers, config.num_fusion_layers, vision=VISION_HALF)
    base = "" if architecture == "VideoMambaModel" else BASE
    if is_half or architecture == "VideoMambaForPreTraining":
        return videomamba_rules(base, "norm")
    return videomamba_rules(base)


def flattening(shape: tuple[int, ...]) -> Change:
    """Return the change from a kernel over one frame to one over a picture."""
    return Change((*shape[:2], *shape[3:]), lambda kernel: kernel[:, :, 0])


if __name__ == "__main__":
    run_command(main)
