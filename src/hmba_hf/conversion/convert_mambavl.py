"""Convert MambaVL to a checkpoint of this package, and back.

    # with AVION's video model inside: sizes and numbers of classes are the file's own
    hmba convert mambavl --checkpoint mambavl_avion_b.pyth --output_dir ours \\
        --labels EPIC_100_verb_classes.csv EPIC_100_noun_classes.csv
    # the fusion alone, which reads features from disk, as the released large model does
    hmba convert mambavl --checkpoint mambavl_avion_l.pyth --output_dir ours
    # the same fusion with a video model from elsewhere: a file of AVION, or a folder or Hub id of a model
    hmba convert mambavl --checkpoint mambavl_avion_l.pyth \\
        --vision avion_finetune_cls_lavila_vitl_best.pt --output_dir ours
    # one for clips of 4 frames that reads 16, as the released code starts from it
    hmba convert mambavl --checkpoint mambavl_avion_l.pyth \\
        --vision avion_pretrain_lavila_vitl_best.pt --num_frames 16 --output_dir ours
    # with the ORViT-Motionformer of the anticipation model inside, which reads boxes of objects beside clips
    hmba convert mambavl --checkpoint mambavl_anticipation.pyth --output_dir ours
    # back to the original's names
    hmba convert mambavl --checkpoint ours --to_original --output_dir theirs

A checkpoint is a file (.pyth, .pth, .pt, .bin or .safetensors), a folder, or on the Hub `org/name`,
`org/name/file.pyth` or `org/name@revision/file.pyth`. No code in it is run. The embeddings of texts are those of the
file, in which they are not RoBERTa's. The result reads padding as text and starts decays as the released code does. It
holds processor, code and card, and is written one tensor at a time, whole or not at all.
`--verify` reads it again, and compares every tensor with its origin and the model with a plain restatement of the
original. `--verify RECORDED` also compares it with recorded numbers of the original code (see
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
from hmba_hf.conversion.mambavl_names import (
    BASE,
    ORVIT,
    fusion_rules,
    motionformer_rules,
    parts_of_attention,
    vision_rules,
)
from hmba_hf.conversion.mambavl_plans import ROBERTA, Original, Plan, build_processor, open_original, plan_model
from hmba_hf.conversion.rename_keys import Renaming, plan_originals, plan_renaming, single_dtype
from hmba_hf.conversion.tensor_files import FileTensors, local_path, parse_hashes
from hmba_hf.conversion.tensor_sources import (
    Change,
    ChangedTensors,
    JoinedTensors,
    OriginalTensors,
    RelabeledTensors,
    RenamedTensors,
    StackedTensors,
    Tensors,
)
from hmba_hf.conversion.verification import compare_tensors, compare_whole_mambavl, recompute_mambavl
from hmba_hf.hub import CardDetails
from hmba_hf.messages import run_command
from hmba_hf.models.configuration_mambavl import (
    MambaVLConfig,
    MambaVLFeaturesConfig,
    MambaVLMotionformerConfig,
    MambaVLVisionConfig,
)
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification

VISION = f"{BASE}vision_model."
# What the released code has no other of: values of a configuration by their names.
RELEASED = {"fusion": "mamba", "share_A": True, "text_features": "embeddings"}


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = conversion_parser(__doc__, program="hmba convert mambavl")
    parser.add_argument("--vision", metavar="NAME", help="video model for a file without one, see above")
    parser.add_argument(
        "--features_only", action="store_true", help="convert the fusion alone, for features in the place of clips"
    )
    parser.add_argument(
        "--num_attention_heads", type=int, help="of the file's video model; default: one for 64 channels"
    )
    parser.add_argument("--num_frames", type=int, help="of a clip, for a file of AVION; default: the file's")
    parser.add_argument(
        "--labels",
        type=Path,
        nargs=2,
        metavar=("VERBS", "NOUNS"),
        help="names of the classes: EPIC_100_verb_classes.csv and EPIC_100_noun_classes.csv",
    )
    parser.add_argument("--tokenizer", help=f"of the questions, a folder or Hub id; default: {ROBERTA}")
    args = parse_either_way(parser, words)
    if args.vision is not None and args.features_only:
        parser.error(f"--features_only must be without --vision, got {args.vision}")
    return args


def main(words: Sequence[str] | None = None) -> None:
    """Convert in either direction."""
    run_conversion(parse_arguments(words), convert, export)


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    original = open_original(
        local_path(args.checkpoint), ORVIT, parse_hashes(args.sha256), reads_vision=not args.features_only
    )
    plan = plan_model(args, original)
    model = blank_model(MambaVLForVideoClassification, plan.config)
    tensors, renaming, dtype = renamed_tensors(args, original, plan, model)
    checkpoint = Checkpoint(
        model=model,
        tensors=tensors,
        dtype=dtype,
        processor=build_processor(args, plan.config),
        card=CardDetails(license=args.license, origin=origin(args, plan)),
    )
    unused = sorted({original.name_in_file(name) for name in renaming.unused})
    report(args, plan, unused)
    with whole_folder(args.output_dir) as folder:
        if args.keep_unused and unused:
            stored = RelabeledTensors(original.stored, {name: name for name in unused})
            write_shards(folder, stored, args.max_shard_size, name=UNUSED)
        write_checkpoint(folder, args.output_dir.resolve().name, checkpoint, args.max_shard_size)
        if args.verify is not None:
            verify(folder, args.verify, tensors, plan)


def renamed_tensors(
    args: argparse.Namespace, original: Original, plan: Plan, model: Any
) -> tuple[Tensors, Renaming, torch.dtype]:
    """Return the tensors of the checkpoint, how those of the file are renamed, and the dtype of all.

    Raises:
        ValueError: if a tensor is unknown, missing, doubled, misshapen or of another dtype.
    """
    wanted = wanted_tensors(model)
    own = dict(wanted)
    if plan.other is not None:
        own = {name: spec for name, spec in wanted.items() if not name.startswith(VISION)}
    renaming = plan_renaming(original.tensors.specs, plan.rules, own)
    asked = asked_dtype(args)
    dtype = asked or single_dtype(original.tensors.specs, renaming)
    tensors: Tensors = RenamedTensors(original.tensors, renaming, asked)
    if plan.other is not None:
        of_vision = {name: spec for name, spec in wanted.items() if name.startswith(VISION)}
        others = plan_renaming(plan.other.tensors.specs, plan.other.rules, of_vision)
        tensors = JoinedTensors(tensors, RenamedTensors(plan.other.tensors, others, dtype))
    return tensors, renaming, dtype


def report(args: argparse.Namespace, plan: Plan, unused: list[str]) -> None:
    """Print what is converted, and what is not used."""
    report_unused(unused, args.keep_unused)
    print(f"converted: both mixers, the embeddings of texts and their projection, the heads {plan.config.head_sizes}")
    if plan.other is not None:
        print(f"video model: that of {args.vision}")
    elif isinstance(plan.config.vision_config, MambaVLVisionConfig):
        print("video model: that of the file")
    elif isinstance(plan.config.vision_config, MambaVLMotionformerConfig):
        print("video model: that of the file, an ORViT-Motionformer, which reads boxes beside clips")
    else:
        print(f"video model: none; the result reads video_features of {plan.config.hidden_size} channels")


def origin(args: argparse.Namespace, plan: Plan) -> str:
    """Describe the origin of the checkpoint for its card."""
    text = f"Made of `{card_name(args.checkpoint)}` by `hmba convert mambavl` of hmba-hf."
    if plan.other is not None:
        return f"{text} Its video model is that of `{card_name(args.vision)}`."
    if isinstance(plan.config.vision_config, MambaVLFeaturesConfig):
        return f"{text} It has no video model: give it `video_features` of {plan.config.hidden_size} channels."
    return text


def verify(folder: Path, recorded: str, tensors: Tensors, plan: Plan) -> None:
    """Compare the written checkpoint with the original, and print the result.

    Raises:
        ValueError: if they differ.
    """
    print(f"verified: {compare_tensors(folder, tensors)} tensors equal their origins")
    weights = released_weights(tensors, plan.config)
    error = compare_whole_mambavl(folder, {name: weights.read(name) for name in weights.specs})
    print(f"verified: the model reproduces the original's logits to {error:.1e} in double precision")
    report_recorded(folder, recorded, recompute_mambavl)


def released_weights(ours: Tensors, config: MambaVLConfig) -> Tensors:
    """Return the tensors of a checkpoint of this package under the names of the original code.

    Raises:
        ValueError: if the original code has no name for one.
    """
    rules = fusion_rules()
    vision = config.vision_config
    if isinstance(vision, MambaVLMotionformerConfig):
        return OriginalTensors(ours, plan_originals(ours.specs, [*motionformer_rules(), *rules]))
    is_avion = isinstance(vision, MambaVLVisionConfig)
    if is_avion:
        rules = [*vision_rules(), *rules]
    names = [name for name in ours.specs if is_avion or not name.startswith(VISION)]
    originals: Tensors = OriginalTensors(ours, plan_originals(names, rules))
    if not is_avion:
        return originals
    originals = StackedTensors(originals, parts_of_attention(originals.specs, ORVIT))
    kernel = f"{ORVIT}conv1.weight"
    rows, *columns = originals.specs[kernel].shape
    flat = Change((rows, torch.Size(columns).numel()), lambda weight: weight.flatten(1))
    return ChangedTensors(originals, {kernel: flat})


def export(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package under the names of the original code.

    Raises:
        ValueError: if the original code has no such model.
    """
    path = local_path(args.checkpoint)
    config = original_config(path)
    ours = FileTensors(path, parse_hashes(args.sha256))
    if not config.ignore_text_mask:
        print("the original code reads padding as text, which this model does not: its outputs will differ")
    originals = JoinedTensors(released_weights(ours, config), kept_tensors(path))
    write_originals(args, originals)


def original_config(path: Path) -> MambaVLConfig:
    """Read the configuration of a checkpoint of this package.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if the original code has no such model.
    """
    model_type = read_model_type(path)
    if model_type != MambaVLConfig.model_type:
        raise ValueError(f"{path} must be of a MambaVL, got one of {model_type!r}")
    config: Any = MambaVLConfig.from_pretrained(path)
    names = config.architectures or [None]
    if names[0] != MambaVLForVideoClassification.__name__:
        raise ValueError(f"architectures must be {[MambaVLForVideoClassification.__name__]}, got {names}")
    for name, wanted in RELEASED.items():
        if getattr(config, name) != wanted:
            raise ValueError(f"{name} must be {wanted!r}, as in the original code, got {getattr(config, name)!r}")
    if list(config.heads) != ["verb", "noun"]:
        raise ValueError(f"heads must be ['verb', 'noun'], as in the original code, got {list(config.heads)}")
    known = tuple(
        of_ours.model_type for of_ours in (MambaVLVisionConfig, MambaVLMotionformerConfig, MambaVLFeaturesConfig)
    )
    if config.vision_config.model_type not in known:
        raise ValueError(
            f"the video model must be of {known}, as in the original code, got {config.vision_config.model_type!r}"
        )
    return config


if __name__ == "__main__":
    run_command(main)
