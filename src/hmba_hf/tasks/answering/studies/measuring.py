"""Measurements of a fine-tuned model besides the scores of its answers.

All of them run on the CPU and on the micro-world's held-out clips, and predict nothing about real roads.
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoProcessor

from ....data.micro_world.world import MicroWorld, MicroWorldConfig
from ....data.samples import Sample
from ....families import load_model
from ....files import read_json_object
from ....models.configuration_hmba import HMBAConfig
from ..boxes import score_grounding, share_picked
from ..flops import answer_flops
from ..generation import answer_samples, encode_questions

KINDS = ("blur", "occlusion", "darkness")
SEVERITIES = (0.25, 0.5, 1.0)
MEMORY_CLIPS = 32


def measure_degradation(folder: Path, clips: int, motion: str) -> dict[str, Any]:
    """Score a model on held-out clips with a degraded current frame, `{kind: {severity: scores}}`.

    The model was trained on clean frames, as in corruption benchmarks.
    """
    model, processor = _load(folder)
    scores: dict[str, Any] = {}
    for kind in KINDS:
        scores[kind] = {}
        for severity in SEVERITIES:
            world = _held_out(model, processor, clips, motion, degradation=kind, severity=severity)
            answers = answer_samples(model, processor, world)
            mean_iou = score_grounding(answers, world, processor).mean_iou
            picked = share_picked(answers, world, processor)
            scores[kind][str(severity)] = {"mean_iou": mean_iou, "picked": picked}
    return scores


def measure_cost(folder: Path, clips: int, motion: str) -> dict[str, Any]:
    """Count the operations of a model for one clip, those of the same adapter at full size, and measure its memory.

    Returns:
        `"flops"`: of the model, by part. `"full_size_flops"`: of the tower and the adapter on CLIP ViT-L/14.
        `"adapter_memory"`: bytes that 32 clips in the adapter add to a fresh process; `None` where the system has no
        such count.
    """
    config: Any = HMBAConfig.from_pretrained(folder)
    full = HMBAConfig(
        num_frames=config.num_frames,
        adapter=config.adapter,
        branches=config.branches,
        temporal_strides=config.temporal_strides,
        fusion=config.fusion,
    )
    costs = answer_flops(full)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        memory = fresh.submit(adapter_memory, folder).result()
    return {
        "flops": answer_flops(config),
        "full_size_flops": {"vision_tower": costs["vision_tower"], "adapter": costs["adapter"]},
        "adapter_memory": memory,
    }


def measure_attention(folder: Path, clips: int, motion: str) -> dict[str, Any]:
    """Measure the query's attention in clips of the risk question and in clips of the description question.

    The adapter does not read the question: its attention can differ only because the clips do.

    Returns:
        `"risk"` and `"description"`: attention by context, see `attention_masses`. `"fresh"`: of an untrained adapter,
        initialised with the seed of the run, on the clips of the risk. `"described"`: share of exactly right
        descriptions.
    """
    model, processor = _load(folder)
    world = _held_out(model, processor, clips, motion)
    descriptions = [world.ego_sample(index) for index in range(clips)]
    answers = answer_samples(model, processor, descriptions)
    right = 0
    for answer, sample in zip(answers, descriptions, strict=True):
        right += answer == sample.answer
    masses = {
        "risk": attention_masses(model, processor, world),
        "description": attention_masses(model, processor, descriptions),
    }
    torch.manual_seed(read_json_object(folder / "history.json", arguments=dict)["arguments"]["seed"])
    fresh = type(model)(model.config).eval()
    fresh.model.vision_tower = model.model.vision_tower  # frozen, and so still that of the base
    return {**masses, "fresh": attention_masses(fresh, processor, world), "described": right / clips}


@torch.no_grad()
def attention_masses(model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32) -> dict[str, float]:
    """Return the share of the query's attention to each context, by `"branch/stride_n"`; all sum to one.

    A share is a sum over the tokens of a context, and a mean over heads, patches and clips.

    Raises:
        ValueError: if the adapter's fusion has no attention.
    """
    masses: dict[str, float] = {}
    for start in tqdm(range(0, len(samples), batch_size), desc="attention", disable=None):
        end = min(start + batch_size, len(samples))
        batch = [samples[index] for index in range(start, end)]
        pixels = encode_questions(batch, processor)["pixel_values_videos"].to(model.device)
        attentions = model.get_video_features(pixels, output_attentions=True).adapter_attentions
        if not attentions:
            raise ValueError(f"fusion must be 'query', whose attention is measured, got {model.config.fusion!r}")
        for context, weights in attentions.items():  # (b, heads, p, 1 or p)
            share = weights.double().sum(-1).mean((1, 2)).sum().item()
            masses[context] = masses.get(context, 0.0) + share / len(samples)
    return masses


@torch.no_grad()
def adapter_memory(folder: Path) -> int | None:
    """Return the bytes that the features of 32 clips in the adapter add to this process, its result included.

    Call it in a fresh process: an older one may have free memory.
    """
    model, _ = _load(folder)
    refs = Path("/proc/self/clear_refs")
    status = Path("/proc/self/status")
    if not refs.exists():
        return None

    def held(field: str) -> int:
        words = status.read_text().split()
        return int(words[words.index(f"{field}:") + 1]) * 1024

    config: Any = model.config
    shape = (MEMORY_CLIPS, config.num_frames, config.num_patches, config.vision_config.hidden_size)
    features = torch.randn(shape)
    model.adapt_frame_features(features[:1])  # compiles, once
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
    refs.write_text("5")  # resets the peak
    resident = held("VmRSS")
    kept = model.adapt_frame_features(features)  # noqa: F841 - the result counts
    return held("VmHWM") - resident


def _load(folder: Path) -> tuple[Any, Any]:
    model = load_model(folder, device_map="cpu").eval()
    return model, AutoProcessor.from_pretrained(folder)


def _held_out(model: Any, processor: Any, clips: int, motion: str, **world: Any) -> MicroWorld:
    config = MicroWorldConfig(
        frame_size=processor.video_processor.size["height"],
        num_frames=model.config.num_frames,
        motion=motion,
        **world,
    )
    return MicroWorld(config, "test", clips)
