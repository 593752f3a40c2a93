"""The checks of `--verify`: every tensor against its origins, and our numbers against the original's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText

from hmba_hf import HMBAConfig
from hmba_hf.conversion.mambavl_names import ORVIT
from hmba_hf.conversion.original_adapter import original_adapter, part_of
from hmba_hf.conversion.original_mambavl import original_avion, original_mambavl
from hmba_hf.conversion.original_motionformer import original_motionformer
from hmba_hf.conversion.original_videomamba import original_videomamba
from hmba_hf.conversion.rename_keys import ADAPTER
from hmba_hf.conversion.tensor_files import FileTensors
from hmba_hf.conversion.tensor_sources import Tensors
from hmba_hf.models import modeling_videomamba, retrieving_videomamba
from hmba_hf.models.configuration_mambavl import MambaVLMotionformerConfig, MambaVLVisionConfig
from hmba_hf.models.joining_adapter import build_adapter
from hmba_hf.models.layers_objects import MotionStream, ObjectBlock
from hmba_hf.models.loading_checkpoints import load_with_report, refuse_lacking
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification, MambaVLModel

DOUBLE_TOLERANCE = 1e-9
RECORDED_TOLERANCE = 2e-5  # of float32 numbers of a whole model
_OF_LENGTH_ONE = ("out.clip",)  # the original of the multi-modal stage leaves this to its loss


def compare_tensors(folder: Path, wanted: Tensors) -> int:
    """Compare the tensors of a written checkpoint with those that it was made from; return their number.

    Raises:
        ValueError: if one differs.
    """
    written = FileTensors(folder)
    differing = sorted(written.specs.keys() ^ wanted.specs.keys())
    if differing:
        raise ValueError(f"{differing[0]} must be in the checkpoint and in its origins, got it in one of them")
    for name in tqdm(wanted.specs, desc="reading again", disable=None):
        if not torch.equal(written.read(name), wanted.read(name)):
            raise ValueError(f"{name} must equal its origins, got other values")
    return len(wanted.specs)


@torch.no_grad()
def compare_adapters(folder: Path, original: dict[str, Tensor]) -> float:
    """Compare the released adapter, as its code computes it, with a converted one on the same frames, in double.

    Args:
        folder: checkpoint of this package.
        original: the released adapter's tensors, without the prefix of their names.

    Returns:
        The largest difference.

    Raises:
        ValueError: if it exceeds rounding.
    """
    config: Any = HMBAConfig.from_pretrained(folder)
    adapter = build_adapter(config, config.vision_config.hidden_size).double().eval()
    written = FileTensors(folder)
    weights = {}
    for name in written.specs:
        if name.startswith(ADAPTER):
            weights[name.removeprefix(ADAPTER)] = written.read(name)
    adapter.load_state_dict(weights)
    shape = (1, config.num_frames, config.num_patches, config.vision_config.hidden_size)
    video = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = original_adapter({name: tensor.double() for name, tensor in original.items()}, video)
    return _compare("adapter", adapter(video).features, wanted, tolerance=DOUBLE_TOLERANCE)


@torch.no_grad()
def compare_recorded(
    folder: Path, recorded: Path, recompute: Callable[[Path, dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, float]:
    """Compare a converted model with recorded numbers of the original code, in float32.

    Args:
        folder: checkpoint of this package.
        recorded: safetensors file with inputs and outputs of the original.
        recompute: returns the model's outputs for the inputs, such as `recompute_hmba`.

    Returns:
        The largest differences, by the names of the recorded outputs.

    Raises:
        ValueError: if one exceeds rounding, or if there is nothing to compare.
    """
    numbers = load_file(recorded)
    ours = recompute(folder, numbers)
    if ours.keys().isdisjoint(numbers):
        raise ValueError(f"{recorded} must hold inputs and outputs of the original, got {sorted(numbers)[:5]} ...")
    errors = {}
    for name, tensor in ours.items():
        if name not in numbers:
            continue
        wanted = numbers[name]
        if name in _OF_LENGTH_ONE:
            wanted = torch.nn.functional.normalize(wanted, dim=-1)
        errors[name] = _compare(name, tensor, wanted, tolerance=RECORDED_TOLERANCE)
    return errors


def recompute_hmba(folder: Path, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of an H-MBA for recorded inputs, by the names of the recorded outputs.

    Args:
        folder: checkpoint of this package.
        numbers: `in.input_ids`, `in.videos` (earlier frames), `in.images` (the current one)
            and any of `out.adapted`, `out.logits` and `out.loss` (with `in.labels`); or with `in.whole_video` (frame
            features) and `out.output`.
    """
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    ours: dict[str, Tensor] = {}
    if "in.whole_video" in numbers:
        ours["out.output"] = model.adapt_frame_features(numbers["in.whole_video"]).last_hidden_state
    if "in.input_ids" in numbers:
        pixels = torch.cat([numbers["in.videos"], numbers["in.images"][:, None]], dim=1)
        inputs = {"input_ids": numbers["in.input_ids"], "pixel_values_videos": pixels}
        output = model(**inputs, labels=numbers.get("in.labels"))
        ours["out.adapted"] = model.get_video_features(pixels).last_hidden_state
        ours["out.logits"] = output.logits
        if output.loss is not None:
            ours["out.loss"] = output.loss[None]
    return ours


def recompute_videomamba(folder: Path, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a VideoMamba for recorded inputs, by the names of the recorded outputs.

    Args:
        folder: checkpoint of this package.
        numbers: `in.video`, `(b, channels, t, height, width)`, or `in.image`, `(b, channels,
            height, width)`, and any of `out.last_hidden_state`, `out.features` (the class token), `out.logits` and
            `out.loss` (with `in.labels`); of pre-training `in.mask`, `(b, 1 + patches)` with the class token, and any
            of `out.clip`, features of any length, and `out.uta_loss` (with `in.teacher`); of the whole multi-modal
            model also any of `out.vis`, `out.pool`, `out.pool_temporal`, `out.vis_masked` and `out.pool_masked`.
    """
    model = load_videomamba(folder, dtype=torch.float32)
    clips = numbers.get("in.video")
    if clips is None and "in.image" in numbers:
        clips = numbers["in.image"][:, :, None]
    ours: dict[str, Tensor] = {}
    if clips is not None:
        clips = clips.transpose(1, 2)
        ours = videomamba_outputs(getattr(model, "vision_model", model), clips, numbers)
        if hasattr(model, "vision_model"):
            ours |= pooled_outputs(model, clips, numbers.get("in.mask"))
    return ours


@torch.no_grad()
def compare_backbones(folder: Path, original: dict[str, Tensor]) -> float:
    """Compare a converted VideoMamba with a plain restatement of the original, in double, on a clip of few patches.

    Args:
        folder: checkpoint of this package.
        original: the original's tensors by their names without a prefix.

    Returns:
        The largest difference of the tokens.

    Raises:
        ValueError: if it exceeds rounding.
    """
    model = load_videomamba(folder)
    backbone = getattr(model, "vision_model", model).videomamba.double()
    config = backbone.config
    frames = min(3 * config.tubelet_size, config.num_frames)
    height, width = config.patch_shape
    grid = (config.frame_size[0] // height, config.frame_size[1] // width)
    shape = (1, frames, config.num_channels, 2 * height, 3 * width)
    clips = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {name: tensor.double() for name, tensor in original.items()}
    wanted = original_videomamba(weights, clips.transpose(1, 2), grid)
    ours = backbone(clips, interpolate_pos_encoding=True).last_hidden_state
    return _compare("last_hidden_state", ours, wanted, tolerance=DOUBLE_TOLERANCE)


def load_videomamba(folder: Path, **options: Any) -> Any:
    """Load a checkpoint of VideoMamba in the class that its configuration names."""
    config: Any = AutoConfig.from_pretrained(folder)
    for module in (modeling_videomamba, retrieving_videomamba):
        if hasattr(module, config.architectures[0]):
            return getattr(module, config.architectures[0]).from_pretrained(folder, **options).eval()
    raise ValueError(f"architectures must be of a VideoMamba, got {config.architectures}")


def videomamba_outputs(model: Any, clips: Tensor, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what a VideoMamba makes of clips, `(b, t, channels, height, width)`, by the names of recorded numbers."""
    encoded = model.videomamba(clips)
    ours = {"out.last_hidden_state": encoded.last_hidden_state, "out.features": encoded.pooler_output}
    if hasattr(model, "classifier"):
        pixels = clips[:, 0] if clips.shape[1] == 1 else clips
        output = model(pixels, labels=numbers.get("in.labels"))
        ours["out.logits"] = output.logits
        if output.loss is not None:
            ours["out.loss"] = output.loss[None]
    elif "in.mask" in numbers:
        output = model(clips, numbers["in.mask"][:, 1:], numbers.get("in.teacher"))
        ours["out.clip"] = output.aligned_features
        if output.loss is not None:
            ours["out.uta_loss"] = output.loss[None]
    return ours


def pooled_outputs(model: Any, clips: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Return the features that a model of videos and texts makes of clips, by the names of recorded numbers."""
    by_frame = model.get_video_features(clips)
    ours = {
        "out.vis": by_frame.last_hidden_state,
        "out.pool_temporal": by_frame.pooler_output,
        "out.pool": model.get_video_features(clips, per_frame=False).pooler_output,
    }
    if mask is not None:
        visible = model.get_video_features(clips, mask[:, 1:])
        ours |= {"out.vis_masked": visible.last_hidden_state, "out.pool_masked": visible.pooler_output}
    return ours


@torch.no_grad()
def compare_whole_mambavl(folder: Path, original: dict[str, Tensor]) -> float:
    """Compare a converted MambaVL with a plain restatement of the original, in double, on a clip of few frames.

    Args:
        folder: checkpoint of this package.
        original: the original's tensors by their names; without those of a video model, both read the same features.

    Returns:
        The largest difference of the logits.

    Raises:
        ValueError: if it exceeds rounding.
    """
    model = MambaVLForVideoClassification.from_pretrained(folder).double().eval()
    config = model.config
    weights = {name: tensor.double() for name, tensor in original.items()}
    draw = torch.Generator().manual_seed(0)
    words = torch.randint(2, config.text_config.vocab_size, (1, 2, 7), generator=draw)
    words[:, 1, 5:] = config.text_config.pad_token_id
    inputs, video = _clips_and_tokens(model.mambavl, weights, draw)
    outputs = model(input_ids=words, **inputs)
    wanted = original_mambavl(weights, video, {"verb": words[:, 0], "noun": words[:, 1]})
    errors = []
    for head, logits in wanted.items():
        errors.append(_compare(f"logits of {head}", outputs.head_logits[head], logits, tolerance=DOUBLE_TOLERANCE))
    return max(errors)


def _clips_and_tokens(
    model: MambaVLModel, weights: dict[str, Tensor], draw: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Return clips of few frames or what stands for them, and the tokens that the original makes of them.

    Args:
        model: whose video model is cut to so many frames.
        weights: of the original.
        draw: of random numbers.
    """
    encoder: Any = model.vision_model
    of_original = (MambaVLVisionConfig.model_type, MambaVLMotionformerConfig.model_type)
    if encoder is None or encoder.config.model_type not in of_original:
        width: Any = model.config.hidden_size
        video = torch.randn(1, 9, width, dtype=torch.float64, generator=draw)
        return {"video_features": video}, video
    config = encoder.config
    reads_boxes = config.model_type == MambaVLMotionformerConfig.model_type
    times = encoder.temporal_embeddings
    if times is not None:
        times.data = times.data[:2]
        config.num_frames = len(times)
    if reads_boxes:
        config.num_frames = len(times) * config.tubelet_size
        encoder.size = (len(times), *encoder.size[1:])
        for module in encoder.modules():
            if isinstance(module, (ObjectBlock, MotionStream)):
                module.object_embeddings.data = module.object_embeddings.data[:2]
    shape = (1, config.num_frames, config.num_channels, config.image_size, config.image_size)
    clips = torch.randn(shape, dtype=torch.float64, generator=draw)
    heads = config.num_attention_heads
    if not reads_boxes:
        return {"pixel_values_videos": clips}, original_avion(part_of(weights, ORVIT), clips, heads)
    corner = torch.rand(1, config.num_frames, config.num_objects, 2, dtype=torch.float64, generator=draw) / 2
    side = 0.1 + 0.4 * torch.rand(corner.shape, dtype=torch.float64, generator=draw)
    boxes = torch.cat([corner + side / 2, side], dim=-1)
    boxes[:, -1, -1] = 0.0
    return {"pixel_values_videos": clips, "boxes": boxes}, original_motionformer(weights, clips, boxes, heads)


def recompute_mambavl(folder: Path, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the outputs of a MambaVL's fusion for recorded inputs, by the names of the recorded outputs.

    Args:
        folder: checkpoint of this package.
        numbers: `in.video_features`, `(b, n, d)`, embedded questions of both heads,
            `in.verb_question_embeddings` and `in.noun_question_embeddings`, `(b, l, channels)`, and any of
            `out.verb_logits`, `out.noun_logits`, `out.x_verb`, `out.x_noun` (the features of each head) and
            `out.video_mamba` (the mixed tokens).
    """
    model = MambaVLForVideoClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ours: dict[str, Tensor] = {}
    if "in.video_features" in numbers:
        questions = [numbers[f"in.{head}_question_embeddings"] for head in model.config.heads]
        text = model.mambavl.text_projection(torch.stack(questions, dim=1))
        is_read = torch.ones(text.shape[:3], dtype=torch.bool)
        mixed, features = model.mambavl.fusion(numbers["in.video_features"], text, is_read)
        ours["out.video_mamba"] = mixed
        for number, (head, classifier) in enumerate(model.classifiers.items()):
            ours[f"out.x_{head}"] = features[:, number]
            ours[f"out.{head}_logits"] = classifier(features[:, number])
    return ours


@torch.no_grad()
def compare_with_llava(folder: Path, source: Path) -> float:
    """Compare the logits of a still picture with those of transformers' own class; one model in memory at a time.

    Args:
        folder: checkpoint of this package.
        source: the LLaVA from which it was converted, in transformers' layout.

    Returns:
        The largest difference.

    Raises:
        ValueError: if it exceeds rounding.
    """
    config: Any = HMBAConfig.from_pretrained(folder)
    words = [token for token in range(3, 12) if token != config.video_token_id]
    ids = torch.tensor([[*words[:4], *[config.video_token_id] * config.num_patches, *words[4:]]])
    theirs, lacking = load_with_report(AutoModelForImageTextToText, str(source))
    refuse_lacking(source, lacking)
    height, width = config.frame_size
    sides = theirs.config.vision_config.image_size
    if isinstance(sides, int):
        sides = (sides, sides)
    picture = torch.randn(1, 3, *sides, generator=torch.Generator().manual_seed(0))
    wanted = theirs(input_ids=ids, pixel_values=picture.to(theirs.dtype)).logits
    del theirs
    ours = AutoModelForImageTextToText.from_pretrained(folder).eval()
    logits = ours(input_ids=ids, pixel_values_videos=picture[:, None, :, :height, :width].to(ours.dtype)).logits
    rounding = {torch.float32: 1e-5}.get(ours.dtype, wanted.abs().max().item() / 128)
    return _compare("logits", logits[..., : wanted.shape[-1]], wanted, tolerance=rounding)


def _compare(name: str, ours: Tensor, wanted: Tensor, tolerance: float) -> float:
    if ours.shape != wanted.shape:
        raise ValueError(f"{name} must be {tuple(wanted.shape)}, got {tuple(ours.shape)}")
    error = (ours.double() - wanted.double()).abs().max().item()
    if not error <= tolerance:
        raise ValueError(f"{name} must match the original's to {tolerance}, got a difference of {error:.1e}")
    return error
