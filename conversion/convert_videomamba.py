"""Convert VideoMamba to a checkpoint of this package, and back.

    # pictures, and clips of Kinetics-400, Something-Something, Breakfast or COIN: sizes and classes are the file's own
    python conversion/convert_videomamba.py --checkpoint videomamba_t16_in1k_res224.pth --output_dir ours
    python conversion/convert_videomamba.py --checkpoint videomamba_m16_k400_f16_res224.pth --labels k400.json \\
        --output_dir ours
    # masked pre-training, to go on with or to fine-tune for 174 classes, whose classifier is new
    python conversion/convert_videomamba.py --checkpoint videomamba_m16_k400_mask_pt_f8_res224.pth --output_dir ours
    python conversion/convert_videomamba.py --checkpoint videomamba_m16_k400_mask_pt_f8_res224.pth --num_labels 174 \\
        --output_dir ours
    # from pictures to clips of 8 frames, and from 8 frames at 224 to 64 at 384
    python conversion/convert_videomamba.py --checkpoint videomamba_s16_in1k_res224.pth --num_frames 8 \\
        --output_dir ours
    python conversion/convert_videomamba.py --checkpoint videomamba_s16_k400_f8_res224.pth --num_frames 64 \\
        --image_size 384 --output_dir ours
    # the vision half of the multi-modal stage, the rest kept beside it
    python conversion/convert_videomamba.py --checkpoint videomamba_m16_25M_f8_res224.pth --keep_unused \\
        --output_dir ours
    # back to the original's names
    python conversion/convert_videomamba.py --checkpoint ours --to_original --output_dir theirs

A checkpoint is a file (.pth, .pt, .bin or .safetensors), a folder, or on the Hub `org/name`, `org/name/file.pth` or
`org/name@revision/file.pth`. No code in it is run. Names may begin with `backbone.` or `encoder.`, which the way back
leaves out. The result holds processor, code and card, and is written one tensor at a time, whole or not at all.
`--verify` reads it again, and compares every tensor with its origin and the backbone with a plain restatement of the
original. `--verify RECORDED` also compares the model with recorded numbers of the original code (see
`verification.py`).
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

from checkpoint_folders import Checkpoint, blank_model, wanted_tensors, whole_folder, write_checkpoint, write_shards
from class_labels import read_label_map, read_labels
from foreign_checkpoints import card_name, conversion_parser
from hmba_hf.hub import CardDetails
from hmba_hf.models.configuration_videomamba import SIZES, VideoMambaConfig
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor, image_processor_of
from rename_keys import plan_originals, plan_renaming, single_dtype
from tensor_files import FileTensors, hub_id, local_path, parse_hashes, read_json
from tensor_sources import (
    Change,
    ChangedTensors,
    JoinedTensors,
    MemoryTensors,
    OriginalTensors,
    RelabeledTensors,
    RenamedTensors,
    Tensors,
)
from verification import compare_backbones, compare_tensors, compare_videomamba
from videomamba_fitting import Head, fit, plan_head
from videomamba_names import (
    BASE,
    OF_RETRIEVAL,
    VISION_HALF,
    bare_names,
    is_multi_modal,
    unused_rules,
    videomamba_rules,
)
from videomamba_sizes import PATCHES, OriginalSizes, read_sizes

UNUSED = "unused_tensors"
# Options without a meaning for the way back.
ONE_WAY = (
    "size",
    "num_frames",
    "image_size",
    "tubelet_size",
    "num_labels",
    "labels",
    "label_map",
    "new_head",
    "alignment_interval",
    "dtype",
    "license",
    "keep_unused",
)
# Classes that the original code has, too.
ARCHITECTURES = (
    VideoMambaModel,
    VideoMambaForImageClassification,
    VideoMambaForVideoClassification,
    VideoMambaForPreTraining,
)


class Original(NamedTuple):
    """A checkpoint of the original code.

    Args:
        tensors: by their names without a prefix.
        stored: their names in the file, by those without a prefix.
        sizes: of the model.
        is_multi_modal: whether it is of the multi-modal stage, with a text half and a CLIP.
    """

    tensors: Tensors
    stored: dict[str, str]
    sizes: OriginalSizes
    is_multi_modal: bool


class Plan(NamedTuple):
    """The model that a checkpoint becomes.

    Args:
        head: of a classifier; `None` in pre-training.
        unused: patterns of original names that it does not use.
    """

    model_class: Any
    config: VideoMambaConfig
    head: Head | None
    unused: list[str]


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__)
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
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, JSON or one a line")
    parser.add_argument("--label_map", type=Path, metavar="FILE", help="classes to keep, a JSON list of their numbers")
    parser.add_argument("--new_head", action="store_true", help="draw a new classifier in any case")
    parser.add_argument(
        "--alignment_interval", type=int, help="between the layers that pre-training aligns; default: 1"
    )
    parser.add_argument("--keep_unused", action="store_true", help=f"keep unused tensors in {UNUSED}.safetensors")
    parser.add_argument("--verify", nargs="?", const="", metavar="RECORDED", help="see above")
    parser.add_argument("--to_original", action="store_true", help="write the original's names")
    args = parser.parse_args()
    useless = [f"--{name}" for name in ONE_WAY if getattr(args, name) not in (None, False)]
    if args.verify:
        useless.append("--verify RECORDED")
    if args.to_original and useless:
        parser.error(f"--to_original must be without {', '.join(useless)}")
    return args


def main() -> None:
    """Convert in either direction."""
    args = parse_arguments()
    if args.to_original:
        export(args)
    else:
        convert(args)
    print(f"checkpoint: {args.output_dir}")


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    original = read_original(args)
    plan = plan_model(args, original)
    model = blank_model(plan.model_class, plan.config)
    fitted = fit(original.tensors, original.sizes, plan.config, head=plan.head, seed=args.seed)
    rules = [*unused_rules(plan.unused), *videomamba_rules()]
    renaming = plan_renaming(fitted.specs, rules, wanted_tensors(model))
    asked: torch.dtype | None = None
    if args.dtype:
        asked = getattr(torch, args.dtype)
    tensors = RenamedTensors(fitted, renaming, asked)
    checkpoint = Checkpoint(
        model=model,
        tensors=tensors,
        dtype=asked or single_dtype(fitted.specs, renaming),
        processor=build_processor(plan),
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


def plan_model(args: argparse.Namespace, original: Original) -> Plan:
    """Choose class and configuration from the shapes of the tensors and from the options.

    Raises:
        ValueError: if options do not fit the checkpoint, or if it has no head and none is asked for.
    """
    sizes = original.sizes
    unused: list[str] = []
    if original.is_multi_modal:
        unused += OF_RETRIEVAL
    values = clip_sizes(args, sizes)
    values["name_or_path"] = hub_id(args.checkpoint)
    head = head_of(args, sizes)
    if head is None:
        return Plan(VideoMambaForPreTraining, VideoMambaConfig(**values, **alignment(args, sizes)), None, unused)
    if args.alignment_interval is not None:
        raise ValueError(f"--alignment_interval must be absent for a classifier, got {args.alignment_interval}")
    unused.append("clip_decoder.*")
    is_picture = values["num_frames"] == 1
    if is_picture or sizes.tubelet_size is not None:
        values["distillation_size"] = sizes.distillation_size
    else:
        unused.append("distill_head.*")  # has done its work when pictures become clips
    values["num_labels"] = head.num_labels
    if args.labels is not None:
        values["id2label"] = named_classes(args.labels, head.num_labels)
        values["label2id"] = {name: number for number, name in values["id2label"].items()}
    if is_picture:
        return Plan(VideoMambaForImageClassification, VideoMambaConfig(**values), head, unused)
    return Plan(VideoMambaForVideoClassification, VideoMambaConfig(**values), head, unused)


def clip_sizes(args: argparse.Namespace, sizes: OriginalSizes) -> dict[str, Any]:
    """Return the values of the configuration that the clips and the width of the model decide."""
    asked = None
    if args.image_size is not None:
        if len(args.image_size) > 2:
            raise ValueError(f"--image_size must be one number or height and width, got {args.image_size}")
        asked = (args.image_size[0], args.image_size[-1])
    rows, columns = sizes.grid(asked)
    frame = asked or (rows * sizes.patch_size[0], columns * sizes.patch_size[1])
    names = ("hidden_size", "num_hidden_layers", "state_size", "conv_kernel", "expand", "num_channels")
    return {
        **{name: getattr(sizes, name) for name in names},
        **frames_of(args, sizes),
        "image_size": _side(frame),
        "patch_size": _side(sizes.patch_size),
    }


def frames_of(args: argparse.Namespace, sizes: OriginalSizes) -> dict[str, int]:
    """Return the number of frames and how many of them make a token.

    Raises:
        ValueError: if the options do not fit the checkpoint.
    """
    if sizes.tubelet_size is None:
        if args.tubelet_size is not None and args.num_frames is None:
            raise ValueError("--tubelet_size must be with --num_frames, for pictures that become clips")
        return {"num_frames": _first(args.num_frames, 1), "tubelet_size": _first(args.tubelet_size, 1)}
    if args.tubelet_size not in (None, sizes.tubelet_size):
        raise ValueError(f"--tubelet_size must be the checkpoint's, {sizes.tubelet_size}, got {args.tubelet_size}")
    if sizes.num_times is None and args.num_frames is None:
        raise ValueError(
            "the checkpoint must hold temporal_pos_embedding, got none: --num_frames N starts one at zero"
        )
    if args.num_frames == 1:
        raise ValueError("--num_frames must be at least 2 for a checkpoint of clips, which takes pictures, too, got 1")
    held = (sizes.num_times or 0) * sizes.tubelet_size
    return {"num_frames": _first(args.num_frames, held), "tubelet_size": sizes.tubelet_size}


def alignment(args: argparse.Namespace, sizes: OriginalSizes) -> dict[str, Any]:
    """Return the values of the configuration of masked pre-training."""
    return {
        "num_alignment_layers": sizes.num_alignment_layers,
        "alignment_size": sizes.alignment_size,
        "alignment_interval": _first(args.alignment_interval, 1),
    }


def head_of(args: argparse.Namespace, sizes: OriginalSizes) -> Head | None:
    """Choose the classifier; `None` for pre-training.

    Raises:
        ValueError: if there is none and none is asked for, or as `plan_head`.
    """
    asked = args.num_labels
    if asked is None and args.labels is not None and (args.new_head or sizes.num_labels is None):
        asked = len(read_labels(args.labels))
    label_map = None
    if args.label_map is not None:
        label_map = read_label_map(args.label_map)
    has_options = asked is not None or label_map is not None or args.new_head
    if sizes.num_labels is None and not has_options:
        if sizes.num_alignment_layers:
            return None
        raise ValueError(
            "the checkpoint must hold head.weight or, of pre-training, clip_decoder.0.head.weight, got neither: "
            "--num_labels N starts a new classifier"
        )
    return plan_head(sizes.num_labels, asked, label_map=label_map, is_new=args.new_head)


def named_classes(path: Path, count: int) -> dict[int, str]:
    """Read the names of all classes.

    Raises:
        ValueError: if there are more or fewer of them.
    """
    names = read_labels(path)
    if len(names) != count:
        raise ValueError(f"{path} must name {count} classes, got {len(names)}")
    return dict(enumerate(names))


def build_processor(plan: Plan) -> Any:
    """Build the processor of pictures or of clips, as the original's evaluation prepares them.

    Frames that are no squares are cut out of ones that are at least as high and as wide.
    """
    height, width = plan.config.frame_size
    longer = max(height, width)
    crop_size = {"height": height, "width": width}
    if plan.model_class is VideoMambaForImageClassification:
        processor = image_processor_of(longer)
        processor.crop_size = crop_size
        return processor
    return VideoMambaVideoProcessor(
        num_frames=plan.config.num_frames, size={"shortest_edge": longer}, crop_size=crop_size
    )


def report(original: Original, plan: Plan, unused: list[str], are_kept: bool) -> None:
    """Print what the model does not use, and what of it is new."""
    if unused:
        fate = "kept" if are_kept else "dropped"
        print(f"not used and {fate}: {len(unused)} tensors", *unused, sep="\n  ")
    if original.is_multi_modal:
        print("only the vision half is converted: text, fusion and pooling belong to retrieval")
    if plan.head is not None and plan.head.rows is None:
        print(f"new and not trained: a classifier of {plan.head.num_labels} classes")
    if original.sizes.num_times is None and plan.config.num_frames > 1:
        print("new and zero: temporal_pos_embedding")


def origin(args: argparse.Namespace, plan: Plan) -> str:
    """Describe the origin of the checkpoint for its card."""
    text = f"Made of `{card_name(args.checkpoint)}` by `conversion/convert_videomamba.py` of hmba-hf."
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
    if not recorded:
        return
    for name, error in compare_videomamba(folder, Path(recorded)).items():
        print(f"verified: {name} of the original to {error:.1e}")


def backbone_weights(tensors: RenamedTensors) -> dict[str, torch.Tensor]:
    """Read the backbone under the original's names, rounded as the conversion rounds it."""
    weights = {}
    for ours, origins in tensors.renaming.origins.items():
        if ours.startswith(BASE):
            (original,) = origins
            weights[original.name] = tensors.source.read(original.name).to(tensors.specs[ours].dtype)
    return weights


def export(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package under the names of the original code.

    Raises:
        ValueError: if the original code has no such model.
    """
    path = local_path(args.checkpoint)
    architecture = architecture_of(path)
    ours = FileTensors(path, parse_hashes(args.sha256))
    unused = kept_tensors(path)
    is_half = is_multi_modal(unused.specs)
    base = "" if architecture is VideoMambaModel else BASE
    final_norm = "norm" if is_half or architecture is VideoMambaForPreTraining else "norm_f"
    originals: Tensors = OriginalTensors(ours, plan_originals(ours.specs, videomamba_rules(base, final_norm)))
    if architecture is VideoMambaForImageClassification:
        originals = ChangedTensors(originals, {PATCHES: flattening(originals.specs[PATCHES].shape)})
    if is_half:
        originals = RelabeledTensors(originals, {f"{VISION_HALF}{name}": name for name in originals.specs})
    originals = JoinedTensors(originals, unused)
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, originals, args.max_shard_size)
        if args.verify is not None:
            print(f"verified: {compare_tensors(folder, originals)} tensors equal their origins")


def architecture_of(path: Path) -> Any:
    """Return the class of a checkpoint of this package.

    Raises:
        FileNotFoundError: if it has no configuration.
        ValueError: if the original code has no such model.
    """
    if not (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} must have a config.json, got none")
    settings = read_json(path / "config.json")
    if settings.get("model_type") != VideoMambaConfig.model_type:
        raise ValueError(f"{path} must be of a VideoMamba, got one of {settings.get('model_type')!r}")
    config = VideoMambaConfig.from_pretrained(path)
    if config.scan_type != "spatial_first":
        raise ValueError(f"scan_type must be 'spatial_first', as in the original code, got {config.scan_type!r}")
    names = config.architectures or [None]
    for architecture in ARCHITECTURES:
        if architecture.__name__ == names[0]:
            return architecture
    known = [architecture.__name__ for architecture in ARCHITECTURES]
    raise ValueError(f"architectures must be of {known}, which the original code has, got {names[0]}")


def kept_tensors(path: Path) -> Tensors:
    """Open the tensors that `--keep_unused` has kept in a checkpoint."""
    files = sorted(path.glob(f"{UNUSED}*.safetensors"))
    if not files:
        return MemoryTensors({})
    index = path / f"{UNUSED}.safetensors.index.json"
    return FileTensors(index if index.is_file() else files[0])


def flattening(shape: tuple[int, ...]) -> Change:
    """Return the change from a kernel over one frame to one over a picture."""
    return Change((*shape[:2], *shape[3:]), lambda kernel: kernel[:, :, 0])


def _first(value: int | None, default: int) -> int:
    if value is None:
        return default
    return value


def _side(sides: tuple[int, int]) -> int | list[int]:
    """Return one number for a square, else height and width."""
    if sides[0] == sides[1]:
        return sides[0]
    return list(sides)


if __name__ == "__main__":
    main()
