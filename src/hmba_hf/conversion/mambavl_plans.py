"""The model that an original MambaVL becomes, by the shapes of its tensors and the options of a command line."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import RobertaConfig

from hmba_hf.conversion.mambavl_names import (
    MOTIONFORMER,
    OF_AVION,
    ORVIT,
    VISUAL,
    fusion_rules,
    motionformer_rules,
    parts_of_attention,
    released_names,
    vision_rules,
)
from hmba_hf.conversion.mambavl_sizes import (
    FusionSizes,
    MotionformerSizes,
    VisionSizes,
    motionformer_prefix,
    read_fusion_sizes,
    read_motionformer_sizes,
    read_vision_sizes,
)
from hmba_hf.conversion.rename_keys import Rule
from hmba_hf.conversion.tensor_files import FileTensors, hub_id, local_path
from hmba_hf.conversion.tensor_sources import (
    Change,
    ChangedTensors,
    MemoryTensors,
    RelabeledTensors,
    SplitTensors,
    Tensors,
)
from hmba_hf.data.actions.epic_kitchens_annotations import read_classes
from hmba_hf.models.configuration_mambavl import (
    MambaVLConfig,
    MambaVLFeaturesConfig,
    MambaVLMotionformerConfig,
    MambaVLVisionConfig,
    width_of,
)
from hmba_hf.models.joining_mambavl import drop_unread
from hmba_hf.models.loading_checkpoints import load_tokenizer, load_vision_config, refuse_lacking
from hmba_hf.models.loading_towers import load_vision_tower
from hmba_hf.models.processing_mambavl import MambaVLProcessor
from hmba_hf.models.video_processing_mambavl import MambaVLVideoProcessor

ROBERTA = "FacebookAI/roberta-base"  # of the original, for its tokenizer
TIMES = f"{VISUAL}temporal_embedding"
CHANNELS_OF_A_HEAD = 64  # in all video models


class Original(NamedTuple):
    """A file of the original code.

    Args:
        tensors: by the names of a MambaVL with flash-attn, with queries, keys and values apart.
        stored: by the names in the file.
        names: the names in the file of whole tensors, by those of a MambaVL with flash-attn.
        whole: the name of a whole tensor by the names of its parts.
        vision: sizes of its video model; `None` where it has none that is read.
        prefix: of the names of its video model.
    """

    tensors: Tensors
    stored: Tensors
    names: dict[str, str]
    whole: dict[str, str]
    vision: VisionSizes | MotionformerSizes | None
    prefix: str

    def name_in_file(self, name: str) -> str:
        """Return the name in the file of a tensor or of the one that it is a part of."""
        return self.names[self.whole.get(name, name)]


class OtherVision(NamedTuple):
    """A video model that comes from elsewhere than the fusion.

    Args:
        tensors: by the names of `rules`.
        rules: the table of names.
        config: of the model.
    """

    tensors: Tensors
    rules: list[Rule]
    config: Any


class Plan(NamedTuple):
    """The model that a file becomes.

    Args:
        config: of the model.
        rules: the table of names of the file.
        other: its video model, where it is not the file's.
    """

    config: MambaVLConfig
    rules: list[Rule]
    other: OtherVision | None = None


def open_original(
    path: Path, prefix: str, hashes: Mapping[str, str] | None = None, reads_vision: bool = True
) -> Original:
    """Open a file of MambaVL or of AVION.

    Args:
        path: of the file, or of a folder with it.
        prefix: of the video model's names in it.
        hashes: of its files.
        reads_vision: whether its video model is wanted, if there is one.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged, or if two tensors have one name.
    """
    stored = FileTensors(path, hashes)
    names = released_names(stored.specs, prefix)
    tensors: Tensors = RelabeledTensors(stored, names)
    of_motionformer = motionformer_prefix(tensors.specs)
    if not reads_vision or (of_motionformer is None and not any(name.startswith(prefix) for name in names)):
        return Original(tensors, stored, names, whole={}, vision=None, prefix=prefix)
    if of_motionformer is not None:
        sizes = read_motionformer_sizes(tensors.specs, of_motionformer)
        return Original(tensors, stored, names, whole={}, vision=sizes, prefix=of_motionformer)
    vision = read_vision_sizes(tensors.specs, prefix)
    kernel = (vision.hidden_size, vision.num_channels, vision.patch_size, vision.patch_size)
    change = Change(kernel, lambda weight: weight.reshape(kernel))
    changed = ChangedTensors(tensors, {f"{prefix}conv1.weight": change})
    parts = parts_of_attention(changed.specs, prefix)
    whole = {part: name for name, three in parts.items() for part in three}
    return Original(SplitTensors(changed, parts), stored, names, whole, vision, prefix)


def plan_model(args: argparse.Namespace, original: Original) -> Plan:
    """Choose the configuration from the shapes of the tensors and from the options.

    Raises:
        ValueError: if options do not fit the file.
    """
    sizes = read_fusion_sizes(original.tensors.specs)
    unused = [Rule(f"{ORVIT}*"), *[Rule(pattern) for pattern in MOTIONFORMER]]
    vision: Any = MambaVLFeaturesConfig(hidden_size=sizes.hidden_size)
    other = None
    if original.vision is not None:
        if args.vision is not None:
            raise ValueError(f"--vision must be absent for a file with a video model, got {args.vision}")
        vision = vision_config(original.vision, args.num_attention_heads)
        unused = vision_rules()
        if isinstance(original.vision, MotionformerSizes):
            unused = motionformer_rules(original.prefix)
    elif args.vision is not None:
        other = open_vision(args)
        vision = other.config
    elif args.num_attention_heads is not None:
        raise ValueError(
            f"--num_attention_heads must be absent without a video model of the original, got "
            f"{args.num_attention_heads}"
        )
    if args.num_frames is not None and other is None:
        raise ValueError(f"--num_frames must be with --vision, whose times it changes, got {args.num_frames}")
    if width_of(vision) != sizes.hidden_size:
        raise ValueError(
            f"the video model must have the width of the fusion, {sizes.hidden_size}, got {width_of(vision)}"
        )
    config = MambaVLConfig(
        vision_config=vision,
        text_config=text_config(sizes),
        heads=named_heads(args.labels, sizes.heads),
        hidden_size=sizes.hidden_size,
        state_size=sizes.state_size,
        conv_kernel=sizes.conv_kernel,
        expand=sizes.expand,
        ignore_text_mask=True,
        initialization="released",
    )
    config.name_or_path = hub_id(args.checkpoint)
    return Plan(config=config, rules=[*unused, *fusion_rules()], other=other)


def vision_config(
    sizes: VisionSizes | MotionformerSizes, num_attention_heads: int | None
) -> MambaVLVisionConfig | MambaVLMotionformerConfig:
    """Return the configuration of AVION's video model or of an ORViT-Motionformer.

    Raises:
        ValueError: if its width and its attention heads do not fit each other.
    """
    heads = num_attention_heads
    if heads is None:
        heads = sizes.hidden_size // CHANNELS_OF_A_HEAD
    if heads < 1 or sizes.hidden_size % heads:
        raise ValueError(f"--num_attention_heads must divide the video model's width {sizes.hidden_size}, got {heads}")
    if isinstance(sizes, MotionformerSizes):
        return MambaVLMotionformerConfig(num_attention_heads=heads, **sizes._asdict())
    return MambaVLVisionConfig(num_attention_heads=heads, **sizes._asdict())


def text_config(sizes: FusionSizes) -> RobertaConfig:
    """Return the configuration of the embeddings of a RoBERTa."""
    return RobertaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.text_size,
        num_hidden_layers=0,
        num_attention_heads=max(sizes.text_size // CHANNELS_OF_A_HEAD, 1),
        intermediate_size=4 * sizes.text_size,
        max_position_embeddings=sizes.max_position_embeddings,
        type_vocab_size=sizes.type_vocab_size,
        layer_norm_eps=1e-5,
    )


def named_heads(labels: list[Path] | None, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the names of the classes of each head, or their number where no file names them.

    Raises:
        ValueError: if a file names more or fewer classes than the head has.
    """
    if labels is None:
        return dict(sizes)
    named: dict[str, Any] = {}
    for path, (head, count) in zip(labels, sizes.items(), strict=True):
        named[head] = read_classes(path)
        if len(named[head]) != count:
            raise ValueError(f"{path} must name {count} classes for the head {head!r}, got {len(named[head])}")
    return named


def open_vision(args: argparse.Namespace) -> OtherVision:
    """Open the video model that `--vision` names: a file of AVION, or a model of transformers.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged, or if a file holds no such model.
    """
    path = local_path(args.vision)
    if (path / "config.json").is_file():
        for name in ("num_attention_heads", "num_frames"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} must be absent for a folder, which states it, got {getattr(args, name)}")
        return _of_transformers(path, args)
    original = open_original(path, VISUAL)
    if not isinstance(original.vision, VisionSizes):
        raise ValueError(f"--vision must be a folder with a config.json or a file of AVION, got {args.vision}")
    sizes = original.vision
    tensors = original.tensors
    if args.num_frames is not None:
        tensors = ChangedTensors(tensors, {TIMES: other_times(sizes, args.num_frames)})
        sizes = sizes._replace(num_frames=args.num_frames)
    config = vision_config(sizes, args.num_attention_heads)
    config.name_or_path = hub_id(args.vision)
    unused = [Rule(pattern) for pattern in OF_AVION]
    return OtherVision(tensors, [*unused, *vision_rules(VISUAL)], config)


def other_times(sizes: VisionSizes, num_frames: int) -> Change:
    """Return the change of a table of times to that of another number of frames.

    Of fewer frames, the first ones are kept; for more, times are drawn out linearly.

    Raises:
        ValueError: if there is no such table, or if it would have no row.

    Source: zhaoyue-zephyrus/AVION, `models/utils.py`.
    """
    if sizes.num_frames == 1:
        raise ValueError(f"--num_frames must be absent for a video model of one frame, got {num_frames}")
    if num_frames < 2:
        raise ValueError(f"--num_frames must be at least 2 for a video model with times, got {num_frames}")

    def resize(times: Tensor) -> Tensor:
        if num_frames <= len(times):
            return times[:num_frames]
        columns = times.float().T[None]
        longer = nn.functional.interpolate(columns, size=num_frames, mode="linear", align_corners=False)
        return longer[0].T.to(times.dtype)

    return Change((num_frames, sizes.hidden_size), resize)


def _of_transformers(path: Path, args: argparse.Namespace) -> OtherVision:
    """Load a video model, or one of pictures, as `AutoModel` does, which knows the names in old files."""
    whole, config = load_vision_config(str(path))
    tower, lacking = load_vision_tower(str(path), whole, torch.float32, {})
    read = drop_unread(tower)
    tensors = MemoryTensors(read.state_dict())
    refuse_lacking(path, [name for name in lacking if name in tensors.specs])
    config.name_or_path = hub_id(args.vision)
    return OtherVision(tensors, [Rule("*", ("mambavl.vision_model.*",))], config)


def build_processor(args: argparse.Namespace, config: MambaVLConfig) -> MambaVLProcessor:
    """Build the processor of clips and questions, as the original's evaluation prepares them.

    Raises:
        ValueError: if the tokenizer does not fit the embeddings.
    """
    name = args.tokenizer or ROBERTA
    tokenizer = load_tokenizer(name)
    rows = config.text_config.vocab_size
    if len(tokenizer) > rows:
        raise ValueError(f"{name} must have at most {rows} tokens, the rows of the embeddings, got {len(tokenizer)}")
    if args.vision is not None and (local_path(args.vision) / "config.json").is_file():
        videos = MambaVLProcessor.from_vision_text_pretrained(str(local_path(args.vision)), name).video_processor
    else:
        side = getattr(config.vision_config, "image_size", 224)
        reads_boxes = config.vision_config.model_type == MambaVLMotionformerConfig.model_type
        videos = MambaVLVideoProcessor.of_backbone(
            "motionformer" if reads_boxes else "avion",
            num_frames=getattr(config.vision_config, "num_frames", 16),
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
        )
    return MambaVLProcessor(videos, tokenizer, heads=config.heads, pads_to_max_length=True)
