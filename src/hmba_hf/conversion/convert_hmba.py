"""Convert Shikra or an H-MBA training checkpoint to a checkpoint of this package, and back.

    # Shikra-7B, published as its difference from LLaMA-7B; the adapter is new and starts as the identity
    hmba convert hmba --checkpoint shikras/shikra-7b-delta-v1 --base LLAMA_7B --output_dir hmba-base
    # Shikra's full weights
    hmba convert hmba --checkpoint SHIKRA_7B --output_dir hmba-base
    # a checkpoint of the released training code, with `hmba.` or `kbmamba.` in its names
    hmba convert hmba --checkpoint hmba-drama/pytorch_model.bin --config SHIKRA_7B --output_dir ours
    # a model of the paper preset, whose scans start from the trained ones
    hmba convert hmba --checkpoint hmba-drama --preset paper --output_dir ours
    # back to the original's names
    hmba convert hmba --checkpoint ours --to_original --output_dir theirs

A checkpoint is a folder, a Hub id (`org/name` or `org/name@revision`) or a file: .safetensors, .bin, .pt or .pth,
sharded or not. No code in it is run. The result holds processor, tokenizer, code and card, and is written one tensor
at a time, whole or not at all. `--verify` reads it again, compares every tensor with its origins, and a released
adapter with a plain restatement of the original. `--verify RECORDED` also compares the whole model with recorded
numbers of the original code (see `hmba_hf.conversion.verification`).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AddedToken, AutoProcessor, LlamaConfig

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAProcessor
from hmba_hf.conversion.checkpoint_folders import (
    UNUSED,
    Checkpoint,
    blank_model,
    fresh_adapter,
    kept_tensors,
    read_generation_config,
    special_ids,
    wanted_tensors,
    whole_folder,
    write_checkpoint,
    write_shards,
)
from hmba_hf.conversion.converter_commands import (
    asked_dtype,
    hmba_parser,
    parse_either_way,
    report_recorded,
    report_unused,
    run_conversion,
)
from hmba_hf.conversion.foreign_checkpoints import card_name, open_checkpoint, open_legacy_tokenizer
from hmba_hf.conversion.rename_keys import (
    ADAPTER,
    TOWER,
    Renaming,
    Rule,
    TensorSpec,
    adapter_prefix,
    plan_originals,
    plan_renaming,
    shape_of,
    shikra_rules,
    single_dtype,
)
from hmba_hf.conversion.tensor_files import FileTensors, local_path, parse_hashes
from hmba_hf.conversion.tensor_sources import (
    JoinedTensors,
    MemoryTensors,
    OriginalTensors,
    RecoveredTensors,
    RenamedTensors,
    SelectedTensors,
    Tensors,
    in_dtype,
)
from hmba_hf.conversion.verification import compare_adapters, compare_tensors, recompute_hmba
from hmba_hf.conversion.vision_towers import VisionTower
from hmba_hf.hub import CardDetails
from hmba_hf.messages import run_command

CLIP = "openai/clip-vit-large-patch14"
TOKENS = ("<im_patch>", "<im_start>", "<im_end>")  # in the order in which Shikra adds them
# Values of the configuration that change the numbers of the released model.
RELEASED_VALUES = (
    "adapter",
    "branches",
    "temporal_strides",
    "bidirectional_time",
    "share_mixers",
    "fusion",
    "fusion_weights",
    "latent_mamba",
    "gated",
    "projector_hidden_act",
    "lm_head_bias",
)


class Original(NamedTuple):
    """A checkpoint of the original code.

    Args:
        tensors: recovered, if it is a delta.
        settings: its config.json.
        folder: that of config.json.
        hub_id: of the checkpoint, if it has one.
        tower: its vision tower.
        prefix: of its adapter's names; `None` without an adapter.
    """

    tensors: Tensors
    settings: dict[str, Any]
    folder: Path
    hub_id: str
    tokenizer: Any
    tower: VisionTower
    prefix: str | None


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = hmba_parser(__doc__, program="hmba convert hmba")
    parser.add_argument("--base", help="the Llama to which the checkpoint is a delta")
    parser.add_argument(
        "--preset", choices=("released", "paper"), help="default: released with an adapter, else paper"
    )
    return parse_either_way(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """Convert in either direction."""
    run_conversion(parse_arguments(words), convert, export)


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    original = read_original(args)
    config = model_config(args, original)
    model = blank_model(HMBAForConditionalGeneration, config)
    wanted = wanted_tensors(model)
    preset = "released" if is_released(config) else "paper"
    rules = shikra_rules(original.prefix or "model.hmba.", preset)
    renaming, fresh = plan_adapter(config, original, rules, wanted=wanted, seed=args.seed)
    asked = asked_dtype(args)
    dtype = asked or single_dtype(original.tensors.specs, renaming)
    tensors = JoinedTensors(
        RenamedTensors(original.tensors, renaming, asked),
        original.tower.renamed(wanted, dtype),
        in_dtype(fresh, dtype),
    )
    settings = read_generation_config(original.folder)
    settings.update(**special_ids(original.tokenizer))
    card = CardDetails(license=args.license, origin=origin(args, fresh))
    processor = build_processor(original, config.num_frames)
    checkpoint = Checkpoint(
        model=model, tensors=tensors, dtype=dtype, generation_config=settings, processor=processor, card=card
    )
    report_unused(renaming.unused, args.keep_unused)
    with whole_folder(args.output_dir) as folder:
        if args.keep_unused and renaming.unused:
            unused = SelectedTensors(original.tensors, renaming.unused)
            write_shards(folder, unused, args.max_shard_size, name=UNUSED)
        write_checkpoint(folder, args.output_dir.resolve().name, checkpoint, args.max_shard_size)
        if args.verify is not None:
            verify(folder, args.verify, tensors=tensors, original=original, dtype=asked)


def read_original(args: argparse.Namespace) -> Original:
    """Open a checkpoint of the original code, a delta added to its base.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged.
    """
    found = open_checkpoint(args)
    tensors: Tensors = found.tensors
    if args.base is not None:
        tensors = RecoveredTensors(tensors, FileTensors(local_path(args.base)))
    named = args.vision or found.settings.get("mm_vision_tower") or CLIP
    beside = found.folder / named  # the folder that `--to_original` writes
    if not args.vision and beside.is_dir():
        named = str(beside)
    return Original(
        tensors=tensors,
        settings=found.settings,
        folder=found.folder,
        hub_id=found.hub_id,
        tower=VisionTower(named),
        tokenizer=shikra_tokenizer(found.folder),
        prefix=adapter_prefix(tensors.specs),
    )


def shikra_tokenizer(folder: Path) -> Any:
    """Load Llama's tokenizer with Shikra's tokens, which are added if absent; it pads with its unknown token.

    The tokens absorb the spaces around them, as did all tokens added to a slow tokenizer by name.
    """
    tokenizer = open_legacy_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(token, lstrip=True, rstrip=True) for token in TOKENS], special_tokens=True)
    tokenizer.chat_template = None  # Shikra uses vicuna v1.1, the processor's default
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def model_config(args: argparse.Namespace, original: Original) -> HMBAConfig:
    """Build the configuration from the original's and from the shapes of its tensors.

    Raises:
        ValueError: if tensors are missing, or tokenizer, tensors and arguments do not fit each other.
    """
    rows = shape_of(original.tensors.specs, "model.embed_tokens.weight", 2)[0]
    vocabulary = original.tokenizer.get_vocab()
    last = max(vocabulary[token] for token in TOKENS)
    if last >= rows:
        raise ValueError(f"embeddings must have rows for all {last + 1} tokens of the tokenizer, got {rows}")
    known = {*LlamaConfig.__annotations__, "rope_theta", "rope_scaling"}
    llama = {name: value for name, value in original.settings.items() if name in known}
    llama |= {"vocab_size": rows, "name_or_path": original.hub_id}
    values: dict[str, Any] = {
        "vision_config": original.tower.config,
        "text_config": LlamaConfig(**{**llama, **special_ids(original.tokenizer)}),
        "video_token_id": vocabulary[TOKENS[0]],
        "vision_feature_layer": original.settings.get("mm_vision_select_layer", -2),
        "num_frames": 5 if args.num_frames is None else args.num_frames,
    }
    if original.prefix is not None:
        values |= adapter_sizes(original.tensors, original.prefix, original.tower.config.hidden_size)
        if args.num_frames not in (None, values["num_frames"]):
            raise ValueError(f"num_frames must be the checkpoint's, {values['num_frames']}, got {args.num_frames}")
    has_adapter = original.prefix is not None
    if args.preset == "paper" or (args.preset is None and not has_adapter):
        return HMBAConfig(**values)
    return HMBAConfig.released(**values)


def adapter_sizes(tensors: Tensors, prefix: str, hidden_size: int) -> dict[str, int]:
    """Return the sizes of an adapter from the shapes of its tensors."""
    channels, state_size = shape_of(tensors.specs, f"{prefix}layer_2.0.A_log", 2)
    return {
        "num_frames": shape_of(tensors.specs, f"{prefix}time_embed", 3)[1],
        "state_size": state_size,
        "conv_kernel": shape_of(tensors.specs, f"{prefix}layer_2.0.conv1d.weight", 3)[-1],
        "expand": max(channels // hidden_size, 1),  # if it does not fit, a check of shapes refuses it
    }


def is_released(config: HMBAConfig) -> bool:
    """Return whether adapter and projector are the released ones, in every value that changes their numbers."""
    preset = HMBAConfig.released()
    return all(getattr(config, name) == getattr(preset, name) for name in RELEASED_VALUES)


def plan_adapter(
    config: HMBAConfig, original: Original, rules: list[Rule], wanted: dict[str, TensorSpec], seed: int
) -> tuple[Renaming, Tensors]:
    """Plan the origins of all but the tower; tensors that only a new adapter has are initialised."""
    own = {name: spec for name, spec in wanted.items() if not name.startswith(TOWER)}
    drawn = []
    for name in own:
        is_held = original.prefix is not None and any(rule.makes(name) for rule in rules)
        if name.startswith(ADAPTER) and not is_held:
            drawn.append(name)
    renaming = plan_renaming(original.tensors.specs, rules, own, optional=drawn)
    if not drawn:
        return renaming, MemoryTensors({})
    return renaming, SelectedTensors(MemoryTensors(fresh_adapter(config, seed)), drawn)


def build_processor(original: Original, num_frames: int) -> HMBAProcessor:
    """Build the processor: the tower's normalisation, Shikra's tokens."""
    joined = HMBAProcessor.from_vision_text_pretrained(
        str(original.tower.path), str(original.folder), video_token=TOKENS[0], num_frames=num_frames
    )
    video_token, start, end = TOKENS
    return HMBAProcessor(
        joined.video_processor,
        original.tokenizer,
        patch_size=joined.patch_size,
        video_token=video_token,
        video_start_token=start,
        video_end_token=end,
    )


def origin(args: argparse.Namespace, fresh: Tensors) -> str:
    """Describe the origin of the checkpoint for its card."""
    base = ""
    if args.base:
        base = f", which is a difference from `{card_name(args.base)}`"
    adapter = "The adapter is the checkpoint's own."
    if fresh.specs:
        adapter = "The adapter has not been trained as it is: fine-tune it before you ask anything about a video."
    return f"Made of `{card_name(args.checkpoint)}`{base} by `hmba convert hmba` of hmba-hf. {adapter}"


def verify(folder: Path, recorded: str, tensors: Tensors, original: Original, dtype: torch.dtype | None) -> None:
    """Compare the written checkpoint with the original, and print the result.

    Raises:
        ValueError: if they differ.
    """
    print(f"verified: {compare_tensors(folder, tensors)} tensors equal their origins")
    if original.prefix is not None and is_released(HMBAConfig.from_pretrained(folder)):
        error = compare_adapters(folder, original_adapter_weights(original.tensors, original.prefix, dtype))
        print(f"verified: the adapter reproduces the original's features to {error:.1e} in double precision")
    report_recorded(folder, recorded, recompute_hmba)


def original_adapter_weights(tensors: Tensors, prefix: str, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    """Read the adapter of the original without its prefix, rounded as the conversion rounds it.

    So the comparison is one of the computations, not of rounding.
    """
    weights = {}
    for name in tensors.specs:
        if not name.startswith(prefix):
            continue
        tensor = tensors.read(name)
        if dtype is not None and not name.endswith("A_log"):
            tensor = tensor.to(dtype)
        weights[name.removeprefix(prefix)] = tensor
    return weights


def export(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package under the names of the original code.

    The original code keeps the vision tower apart: it gets a folder of its own within.

    Raises:
        ValueError: if the original code has no such model.
    """
    path = local_path(args.checkpoint)
    config: Any = HMBAConfig.from_pretrained(path)
    if not is_released(config) or config.text_config.model_type != "llama":
        raise ValueError(f"a model for the original's names must be the released preset on a Llama, got {path}")
    ours = FileTensors(path, parse_hashes(args.sha256))
    names = []
    tower_names = []
    for name in ours.specs:
        if name.startswith(TOWER):
            tower_names.append(name)
        else:
            names.append(name)
    originals: Tensors = OriginalTensors(ours, plan_originals(names, shikra_rules()))
    originals = JoinedTensors(originals, kept_tensors(path))
    tower = OriginalTensors(ours, plan_originals(tower_names, [Rule("*", (f"{TOWER}*",))]))
    processor: Any = AutoProcessor.from_pretrained(path)
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, originals, args.max_shard_size)
        write_original_files(folder, config, processor)
        config.vision_config.save_pretrained(folder / "vision_tower")
        write_shards(folder / "vision_tower", tower, args.max_shard_size)
        if args.verify is not None:
            count = compare_tensors(folder, originals) + compare_tensors(folder / "vision_tower", tower)
            print(f"verified: {count} tensors equal their origins")


def write_original_files(folder: Path, config: HMBAConfig, processor: Any) -> None:
    """Write the original's config.json, its tokenizer, and the normalisation of the tower's pictures."""
    settings = {
        **config.text_config.to_dict(),
        "model_type": "shikra",
        "architectures": ["ShikraLlamaForCausalLM"],
        "mm_vision_tower": "vision_tower",
        "mm_hidden_size": config.vision_config.hidden_size,
        "mm_vision_select_layer": config.vision_feature_layer,
        "use_mm_proj": True,
        "use_mamba": True,
        "mm_use_im_start_end": True,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    processor.tokenizer.save_pretrained(folder)
    (folder / "vision_tower").mkdir()
    pictures = {
        "image_processor_type": "CLIPImageProcessor",
        "image_mean": list(processor.video_processor.image_mean),
        "image_std": list(processor.video_processor.image_std),
    }
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")


if __name__ == "__main__":
    run_command(main)
