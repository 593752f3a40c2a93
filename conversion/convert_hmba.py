"""Make H-MBA of Shikra or of an H-MBA training checkpoint, and bring it back.

    # Shikra-7B, published as its difference from LLaMA-7B; the adapter is new and starts as the identity
    python conversion/convert_hmba.py --checkpoint shikras/shikra-7b-delta-v1 --base LLAMA_7B --output_dir hmba-base
    # Shikra's full weights
    python conversion/convert_hmba.py --checkpoint SHIKRA_7B --output_dir hmba-base
    # a checkpoint of the released training code, with `hmba.` or `kbmamba.` in its names
    python conversion/convert_hmba.py --checkpoint hmba-drama/pytorch_model.bin --config SHIKRA_7B --output_dir ours
    # a model of the paper preset, whose scans start from the trained ones
    python conversion/convert_hmba.py --checkpoint hmba-drama --preset paper --output_dir ours
    # back to the original's names
    python conversion/convert_hmba.py --checkpoint ours --to_original --output_dir theirs

A checkpoint is a folder, a Hub id (`org/name` or `org/name@revision`) or a file: .safetensors, .bin, .pt or .pth,
sharded or not. Nothing in it is run. The result holds processor, tokenizer, code and card, and is written one tensor
at a time, whole or not at all. `--verify` reads it again, compares every tensor with what it was made of, and a
released adapter with a plain restatement of the original; `--verify RECORDED` also compares the whole model with
numbers that were recorded from the original code (see `verification.py`).
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoProcessor, LlamaConfig

from checkpoint_folders import (
    blank_model,
    card_name,
    fresh_adapter,
    load_tokenizer,
    read_generation_config,
    special_ids,
    wanted_tensors,
    whole_folder,
    write_card,
    write_model_files,
    write_shards,
)
from hmba_hf import HMBAConfig, HMBAProcessor
from rename_keys import (
    ADAPTER,
    TOWER,
    Renaming,
    Rule,
    TensorSpec,
    adapter_prefix,
    plan_originals,
    plan_renaming,
    shikra_rules,
    single_dtype,
)
from tensor_files import FileTensors, local_path, parse_hashes
from tensor_sources import (
    JoinedTensors,
    MemoryTensors,
    OriginalTensors,
    RecoveredTensors,
    RenamedTensors,
    SelectedTensors,
    Tensors,
)
from verification import compare_adapters, compare_recorded, compare_tensors
from vision_towers import VisionTower

CLIP = "openai/clip-vit-large-patch14"
TOKENS = ("<im_patch>", "<im_start>", "<im_end>")  # in the order in which Shikra adds them
UNUSED = "unused_tensors"
# Values of the configuration without which the original's numbers are other ones.
RELEASED_VALUES = (
    *("adapter", "branches", "temporal_strides", "bidirectional_time", "share_mixers", "fusion", "fusion_weights"),
    *("latent_mamba", "gated", "projector_hidden_act", "lm_head_bias"),
)
CARD = """# H-MBA

Made by `conversion/convert_hmba.py` of [hmba-hf](https://arxiv.org/abs/2501.04302) from `{checkpoint}`{base}.
{adapter} The licences of what it was made of apply to it.
"""


class Original(NamedTuple):
    """A checkpoint of the original code: its tensors, its config.json, its tokenizer, and the tower it sees with."""

    tensors: Tensors
    settings: dict[str, Any]
    tokenizer: Any
    folder: Path
    tower: VisionTower
    prefix: str | None


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="Shikra, its delta, or H-MBA; ours with --to_original")
    parser.add_argument("--base", help="the Llama that the checkpoint is a delta of")
    parser.add_argument("--vision", help="the CLIP that it sees with; when absent what its config names, or ViT-L/14")
    parser.add_argument("--config", help="folder with config.json and tokenizer, where the checkpoint has none")
    parser.add_argument("--output_dir", type=Path, required=True, help="new or empty folder")
    parser.add_argument(
        "--preset", choices=("released", "paper"), help="default: released with an adapter, else paper"
    )
    parser.add_argument("--num_frames", type=int, default=None, help="of a new adapter; 5 when absent")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="that of the checkpoint if absent")
    parser.add_argument("--keep_unused", action="store_true", help=f"keep what is not used in {UNUSED}.safetensors")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="NAME=HASH", help="of files of the checkpoint")
    parser.add_argument("--max_shard_size", default="5GB", help="of the files that are written")
    parser.add_argument("--seed", type=int, default=0, help="of a new adapter")
    parser.add_argument("--verify", nargs="?", const="", metavar="RECORDED", help="see above")
    parser.add_argument("--to_original", action="store_true", help="write the original's names")
    return parser.parse_args()


def main() -> None:
    """Convert one way or the other."""
    args = parse_arguments()
    (export if args.to_original else convert)(args)
    print(f"checkpoint: {args.output_dir}")


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    original = read_original(args)
    config = model_config(args, original)
    model = blank_model(config)
    wanted = wanted_tensors(model)
    rules = shikra_rules(original.prefix or "model.hmba.", "released" if is_released(config) else "paper")
    renaming, fresh = plan_adapter(config, original, rules, wanted, args.seed)
    asked: torch.dtype | None = getattr(torch, args.dtype) if args.dtype else None
    dtype = asked or single_dtype(original.tensors.specs, renaming)
    tensors = JoinedTensors(
        RenamedTensors(original.tensors, renaming, asked),
        original.tower.renamed(wanted, dtype),
        RenamedTensors(fresh, plan_renaming(fresh.specs, [Rule("*", ("*",))], fresh.specs), dtype),
    )
    report_unused(renaming.unused, args.keep_unused)
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, tensors, args.max_shard_size)
        if args.keep_unused and renaming.unused:
            write_shards(folder, SelectedTensors(original.tensors, renaming.unused), args.max_shard_size, UNUSED)
        settings = read_generation_config(original.folder)
        settings.update(**special_ids(original.tokenizer))
        write_model_files(folder, model, dtype, settings, build_processor(original, config.num_frames))
        write_card(folder, card_text(args, fresh), [args.checkpoint, args.base, original.tower.name])
        if args.verify is not None:
            verify(folder, args.verify, tensors, original, asked)


def read_original(args: argparse.Namespace) -> Original:
    """Open a checkpoint of the original code, a delta added to its base.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged.
    """
    path = local_path(args.checkpoint)
    tensors: Tensors = FileTensors(path, parse_hashes(args.sha256))
    if args.base is not None:
        tensors = RecoveredTensors(tensors, FileTensors(local_path(args.base)))
    folder = local_path(args.config) if args.config else path if path.is_dir() else path.parent
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"a config.json is wanted, got none in {folder}: name a folder that has it by --config"
        )
    settings = json.loads((folder / "config.json").read_text())
    named = args.vision or settings.get("mm_vision_tower") or CLIP
    beside = folder / named  # where `--to_original` puts it
    tower = VisionTower(str(beside) if not args.vision and beside.is_dir() else named)
    return Original(tensors, settings, shikra_tokenizer(folder), folder, tower, adapter_prefix(tensors.specs))


def shikra_tokenizer(folder: Path) -> Any:
    """Load a tokenizer with what Shikra adds to Llama's, or add it; it pads with its unknown token."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(list(TOKENS), special_tokens=True)
    tokenizer.chat_template = None  # Shikra speaks vicuna v1.1, which the processor brings
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer


def model_config(args: argparse.Namespace, original: Original) -> HMBAConfig:
    """Build the configuration from the original's and from the shapes of its tensors.

    Raises:
        ValueError: if tensors are missing, or tokenizer, tensors and arguments do not fit each other.
    """
    rows, vocabulary = _shape(original.tensors, "model.embed_tokens.weight")[0], original.tokenizer.get_vocab()
    if (last := max(vocabulary[token] for token in TOKENS)) >= rows:
        raise ValueError(f"embeddings of all {last + 1} tokens of the tokenizer are wanted, got {rows} rows")
    known = {*LlamaConfig.__annotations__, "rope_theta", "rope_scaling"}
    llama = {name: value for name, value in original.settings.items() if name in known}
    values: dict[str, Any] = {
        "vision_config": original.tower.config,
        "text_config": LlamaConfig(**{**llama, "vocab_size": rows, **special_ids(original.tokenizer)}),
        "video_token_id": vocabulary[TOKENS[0]],
        "vision_feature_layer": original.settings.get("mm_vision_select_layer", -2),
        "num_frames": args.num_frames or 5,
    }
    if original.prefix is not None:
        values |= adapter_sizes(original.tensors, original.prefix, original.tower.config.hidden_size)
        if args.num_frames not in (None, values["num_frames"]):
            raise ValueError(f"num_frames must be the checkpoint's, {values['num_frames']}, got {args.num_frames}")
    preset = args.preset or ("paper" if original.prefix is None else "released")
    return HMBAConfig(**values) if preset == "paper" else HMBAConfig.released(**values)


def adapter_sizes(tensors: Tensors, prefix: str, hidden_size: int) -> dict[str, int]:
    """Read the sizes of an adapter off its tensors."""
    channels, state_size = _shape(tensors, f"{prefix}layer_2.0.A_log")
    return {
        "num_frames": _shape(tensors, f"{prefix}time_embed")[1],
        "state_size": state_size,
        "conv_kernel": _shape(tensors, f"{prefix}layer_2.0.conv1d.weight")[-1],
        "expand": max(channels // hidden_size, 1),  # if it does not fit, the shapes will say so
    }


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    if name not in tensors.specs:
        raise ValueError(f"the checkpoint must hold {name}, got none")
    return tensors.specs[name].shape


def is_released(config: HMBAConfig) -> bool:
    """Tell whether an adapter and its projector are the released ones, in every value that changes their numbers."""
    preset = HMBAConfig.released()
    return all(getattr(config, name) == getattr(preset, name) for name in RELEASED_VALUES)


def plan_adapter(
    config: HMBAConfig, original: Original, rules: list[Rule], wanted: dict[str, TensorSpec], seed: int
) -> tuple[Renaming, Tensors]:
    """Plan where all but the tower comes from; what a new adapter has and the original has not is drawn."""
    own = {name: spec for name, spec in wanted.items() if not name.startswith(TOWER)}
    adapter = [name for name in own if name.startswith(ADAPTER)]
    if original.prefix is not None:
        adapter = [name for name in adapter if not any(rule.makes(name) for rule in rules)]
    renaming = plan_renaming(original.tensors.specs, rules, own, adapter)
    drawn = MemoryTensors(fresh_adapter(config, seed) if adapter else {})
    return renaming, SelectedTensors(drawn, adapter)


def report_unused(names: list[str], are_kept: bool) -> None:
    """List what the model does not use."""
    if names:
        print(f"not used and {'kept' if are_kept else 'dropped'}: {len(names)} tensors", *names, sep="\n  ")


def build_processor(original: Original, num_frames: int) -> HMBAProcessor:
    """Build the processor: the tower's pictures, Shikra's tokens."""
    joined = HMBAProcessor.from_vision_text_pretrained(
        str(original.tower.path), str(original.folder), video_token=TOKENS[0], num_frames=num_frames
    )
    names = ("video_token", "video_start_token", "video_end_token")
    tokens = dict(zip(names, TOKENS, strict=True))
    return HMBAProcessor(joined.video_processor, original.tokenizer, patch_size=joined.patch_size, **tokens)


def card_text(args: argparse.Namespace, fresh: Tensors) -> str:
    """Say on the card what the checkpoint is made of."""
    base = f", which is a difference from `{card_name(args.base)}`" if args.base else ""
    adapter = "The adapter is the checkpoint's own."
    if fresh.specs:
        adapter = "The adapter has not been trained as it is: fine-tune it before you ask anything about a video."
    return CARD.format(checkpoint=card_name(args.checkpoint), base=base, adapter=adapter)


def verify(folder: Path, recorded: str, tensors: Tensors, original: Original, dtype: torch.dtype | None) -> None:
    """Compare what was written with the original, and print what came of it.

    Raises:
        ValueError: if it is not the same.
    """
    print(f"verified: {compare_tensors(folder, tensors)} tensors are what they were made of")
    if original.prefix is not None and is_released(HMBAConfig.from_pretrained(folder)):
        start = original.prefix
        names = {name.removeprefix(start): name for name in original.tensors.specs if name.startswith(start)}
        written = {name: original.tensors.read(whole) for name, whole in names.items()}
        if dtype is not None:  # what is compared is the graph, not how numbers were rounded
            written = {name: x if name.endswith("A_log") else x.to(dtype) for name, x in written.items()}
        error = compare_adapters(folder, written)
        print(f"verified: the adapter gives the original's features to {error:.1e} in double precision")
    for name, error in (compare_recorded(folder, Path(recorded)) if recorded else {}).items():
        print(f"verified: {name} of the original to {error:.1e}")


def export(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package under the names of the original code.

    The vision tower, which the original keeps outside, goes to a folder of its own in it.

    Raises:
        ValueError: if the original code has no such model.
    """
    path = local_path(args.checkpoint)
    config: Any = HMBAConfig.from_pretrained(path)
    if not is_released(config) or config.text_config.model_type != "llama":
        raise ValueError(f"the released preset on a Llama is wanted for the original's names, got {path}")
    ours = FileTensors(path, parse_hashes(args.sha256))
    names = [name for name in ours.specs if not name.startswith(TOWER)]
    originals: Tensors = OriginalTensors(ours, plan_originals(names, shikra_rules()))
    if unused := sorted(path.glob(f"{UNUSED}*.safetensors")):
        index = path / f"{UNUSED}.safetensors.index.json"
        originals = JoinedTensors(originals, FileTensors(index if index.is_file() else unused[0]))
    tower = OriginalTensors(
        ours, plan_originals([name for name in ours.specs if name.startswith(TOWER)], [Rule("*", (f"{TOWER}*",))])
    )
    processor: Any = AutoProcessor.from_pretrained(path)
    with whole_folder(args.output_dir) as folder:
        write_shards(folder, originals, args.max_shard_size)
        write_original_files(folder, config, processor)
        config.vision_config.save_pretrained(folder / "vision_tower")
        write_shards(folder / "vision_tower", tower, args.max_shard_size)
        if args.verify is not None:
            counts = [compare_tensors(folder, originals), compare_tensors(folder / "vision_tower", tower)]
            print(f"verified: {sum(counts)} tensors are what they were made of")


def write_original_files(folder: Path, config: HMBAConfig, processor: Any) -> None:
    """Write the original's config.json, its tokenizer, and how the tower's pictures are normalised."""
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
    pictures: dict[str, Any] = {"image_processor_type": "CLIPImageProcessor"}
    pictures |= {name: list(getattr(processor.video_processor, name)) for name in ("image_mean", "image_std")}
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2) + "\n")


if __name__ == "__main__":
    main()
