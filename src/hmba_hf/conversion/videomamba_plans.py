"""The model that an original VideoMamba becomes, by the shapes of its tensors and the options of a command line."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from transformers import BertConfig

from hmba_hf.conversion.rename_keys import Rule
from hmba_hf.conversion.tensor_files import hub_id
from hmba_hf.conversion.tensor_sources import Tensors
from hmba_hf.conversion.videomamba_fitting import Head, plan_head
from hmba_hf.conversion.videomamba_names import OF_RETRIEVAL, retrieval_rules, unused_rules, videomamba_rules
from hmba_hf.conversion.videomamba_sizes import OriginalSizes, read_text_sizes
from hmba_hf.data.actions.lists import read_class_names
from hmba_hf.files import parse_json
from hmba_hf.models.configuration_videomamba import VideoMambaConfig, VideoMambaRetrievalConfig
from hmba_hf.models.loading_checkpoints import load_tokenizer
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from hmba_hf.models.processing_videomamba import VideoMambaProcessor
from hmba_hf.models.retrieving_videomamba import VideoMambaForVideoTextRetrieval
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor, image_processor_of

BERT = "google-bert/bert-base-uncased"  # of the original, for its tokenizer
CHANNELS_OF_A_HEAD = 64  # in every published BERT


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
        config: of the model.
        vision: of its VideoMamba; the same unless there is a text half.
        rules: the table of names.
        head: of a classifier.
    """

    model_class: Any
    config: Any
    vision: VideoMambaConfig
    rules: list[Rule]
    head: Head | None = None


def plan_model(args: argparse.Namespace, original: Original) -> Plan:
    """Choose class and configuration from the shapes of the tensors and from the options.

    Raises:
        ValueError: if options do not fit the checkpoint, or if it has no head and none is asked for.
    """
    values = clip_sizes(args, original.sizes)
    values["name_or_path"] = hub_id(args.checkpoint)
    head = head_of(args, original.sizes)
    is_whole = original.is_multi_modal and head is None and not args.vision_half
    if args.vision_half and not original.is_multi_modal:
        raise ValueError("--vision_half must be for a checkpoint of the multi-modal stage, got one of another")
    for name in ("num_attention_heads", "tokenizer"):
        if getattr(args, name) is not None and not is_whole:
            raise ValueError(f"--{name} must be absent without a text half, got {getattr(args, name)}")
    if head is not None:
        return plan_classifier(args, original, values, head)
    config = VideoMambaConfig(**values, **alignment(args, original.sizes))
    if is_whole:
        return plan_retrieval(args, original, config)
    unused: list[str] = []
    if original.is_multi_modal:
        unused += OF_RETRIEVAL
    rules = [*unused_rules(unused), *videomamba_rules()]
    return Plan(model_class=VideoMambaForPreTraining, config=config, vision=config, rules=rules)


def plan_classifier(args: argparse.Namespace, original: Original, values: dict[str, Any], head: Head) -> Plan:
    """Choose the class of a classifier and complete the values of its configuration."""
    if args.alignment_interval is not None:
        raise ValueError(f"--alignment_interval must be absent for a classifier, got {args.alignment_interval}")
    unused = ["clip_decoder.*"]
    if original.is_multi_modal:
        unused += OF_RETRIEVAL
    model_class: Any = VideoMambaForVideoClassification
    if values["num_frames"] == 1:
        model_class = VideoMambaForImageClassification
    elif original.sizes.tubelet_size is None:
        unused.append("distill_head.*")  # has done its work when pictures become clips
    if "distill_head.*" not in unused:
        values["distillation_size"] = original.sizes.distillation_size
    values["num_labels"] = head.num_labels
    if args.labels is not None:
        values["id2label"] = named_classes(args.labels, head.num_labels)
        values["label2id"] = {name: number for number, name in values["id2label"].items()}
    config = VideoMambaConfig(**values)
    rules = [*unused_rules(unused), *videomamba_rules()]
    return Plan(model_class=model_class, config=config, vision=config, rules=rules, head=head)


def plan_retrieval(args: argparse.Namespace, original: Original, vision: VideoMambaConfig) -> Plan:
    """Choose the configuration of the whole model of the multi-modal stage.

    Raises:
        ValueError: if the width of the text half and its attention heads do not fit each other.
    """
    sizes = read_text_sizes(original.tensors.specs)
    heads = _first(args.num_attention_heads, sizes.hidden_size // CHANNELS_OF_A_HEAD)
    if heads < 1 or sizes.hidden_size % heads:
        raise ValueError(f"--num_attention_heads must divide the text half's width {sizes.hidden_size}, got {heads}")
    text = BertConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=heads,
        intermediate_size=sizes.intermediate_size,
        max_position_embeddings=sizes.max_position_embeddings,
        type_vocab_size=sizes.type_vocab_size,
    )
    config = VideoMambaRetrievalConfig(
        vision_config=vision,
        text_config=text,
        num_fusion_layers=sizes.num_fusion_layers,
        projection_size=sizes.projection_size,
    )
    config.name_or_path = vision.name_or_path
    rules = [*unused_rules([]), *retrieval_rules(config.num_text_layers, config.num_fusion_layers)]
    return Plan(model_class=VideoMambaForVideoTextRetrieval, config=config, vision=vision, rules=rules)


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
        asked = len(read_class_names(args.labels))
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
    names = read_class_names(path)
    if len(names) != count:
        raise ValueError(f"{path} must name {count} classes, got {len(names)}")
    return dict(enumerate(names))


def read_label_map(path: Path) -> list[int]:
    """Read which classes of a model are kept, in their new order: a JSON list of their numbers.

    Raises:
        ValueError: if the file is damaged or holds anything else.
    """
    try:
        rows: Any = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} must be a JSON file, got one that cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must be a JSON list of the numbers of classes, got {type(rows).__name__}")
    for row in rows:
        if type(row) is not int or row < 0:
            raise ValueError(f"{path} must be a JSON list of the numbers of classes, got {row!r} in it")
    return rows


def build_processor(args: argparse.Namespace, plan: Plan) -> Any:
    """Build the processor of pictures, of clips, or of clips and texts, as the original's evaluation prepares them.

    Frames that are no squares are cut out of ones that are at least as high and as wide.

    Raises:
        ValueError: if a tokenizer does not fit the text half.
    """
    height, width = plan.vision.frame_size
    longer = max(height, width)
    crop_size = {"height": height, "width": width}
    if plan.model_class is VideoMambaForImageClassification:
        image_processor: Any = image_processor_of(longer)
        image_processor.crop_size = crop_size
        return image_processor
    processor = VideoMambaVideoProcessor(
        num_frames=plan.vision.num_frames, size={"shortest_edge": longer}, crop_size=crop_size
    )
    if plan.model_class is not VideoMambaForVideoTextRetrieval:
        return processor
    return VideoMambaProcessor(processor, text_tokenizer(args.tokenizer or BERT, plan.config.text_config.vocab_size))


def text_tokenizer(name: str, rows: int) -> Any:
    """Load the tokenizer of a text half.

    Args:
        name: of a folder, or on the Hub.
        rows: of the table of its words.

    Raises:
        ValueError: if it has more tokens, or none that hides others.
    """
    tokenizer = load_tokenizer(name)
    if len(tokenizer) > rows:
        raise ValueError(f"{name} must have at most {rows} tokens, the rows of the text half, got {len(tokenizer)}")
    if tokenizer.mask_token_id is None:
        raise ValueError(f"{name} must have a mask, such as BERT's tokenizer, got one without")
    return tokenizer


def _first(value: int | None, default: int) -> int:
    if value is None:
        return default
    return value


def _side(sides: tuple[int, int]) -> int | list[int]:
    """Return one number for a square, else height and width."""
    if sides[0] == sides[1]:
        return sides[0]
    return list(sides)
