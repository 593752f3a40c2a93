"""Train a base of another family for the micro-world: a tiny Qwen3-VL that learns from single pictures.

It is a model of transformers and knows nothing of motion or of H-MBA, as one from the Hub. It learns as the base in
`examples/micro_base` does: first the vision tower learns the name and the box of what stands in each patch. Then the
mergers and the language model learn to answer, in chats about all road users of a picture. Boxes are written as
Qwen3-VL writes them, in thousandths of the picture. `benchmarks/vlm_learning.py` puts H-MBA on it.

    python examples/train_micro_vlm.py --output_dir runs/micro_vlm

A run that was stopped goes on from its last checkpoint. The model's answers about real roads are worth nothing.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from train_micro_base import BaseArguments, Patches, learn_tokens, train_tower, world_texts
from transformers import (
    HfArgumentParser,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Trainer,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Box, Sample
from hmba_hf.tasks.answering.boxes import score_grounding
from hmba_hf.tasks.answering.collator import IGNORE_INDEX
from hmba_hf.tasks.answering.generation import generate_answers

INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
PATCH_SIZE = 8
IMAGE_TOKEN = "<|image_pad|>"
SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    IMAGE_TOKEN,
    "<|video_pad|>",
]
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message['role'] ~ '\\n' -}}
    {%- set content -%}
        {%- if message['content'] is string -%}
            {{- message['content'] -}}
        {%- else -%}
            {%- for block in message['content'] -%}
                {%- if block['type'] == 'image' -%}
                    {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
                {%- elif block['type'] == 'video' -%}
                    {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
                {%- else -%}
                    {{- block['text'] -}}
                {%- endif -%}
            {%- endfor -%}
        {%- endif -%}
    {%- endset -%}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- content ~ '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}
    {%- else -%}
        {{- content ~ '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
tags: [micro-world]
---
# A tiny Qwen3-VL of the micro-world

A Qwen3-VL of {count:,} parameters. It prints boxes of road users of one drawn picture in thousandths. It knows nothing
of motion. This command trained it from random weights, in the end on {questions:,} questions about drawn pictures:

    {command}

It was evaluated on {scores.count} held-out pictures with questions such as "Where is the red truck?":

| mIoU | Acc@0.5 | share of unparsed answers |
|---|---|---|
| {scores.mean_iou:.3f} | {scores.accuracy:.3f} | {scores.unparsed:.3f} |

These numbers hold for the micro-world alone. The model's answers about real roads are worth nothing.
"""


@dataclass
class VLMArguments(BaseArguments):
    """`BaseArguments` with checkpoints to go on from."""

    tower_steps: int = field(default=800, metadata={"help": "of training the vision tower, with 64 pictures each"})
    max_steps: int = 1200
    per_device_train_batch_size: int = 12
    save_strategy: str = "steps"
    save_steps: int = 200
    save_total_limit: int = 1


def build_tokenizer(world: MicroWorld) -> PreTrainedTokenizerFast:
    """Train a tokenizer with Qwen's special tokens on the texts of the world."""
    boxes = ["\n", ' {"bbox_2d": [1, 2, 3, 4]}'] * 100  # often enough for tokens of their own
    texts = [*world_texts(world), *boxes]
    return PreTrainedTokenizerFast(
        tokenizer_object=learn_tokens(iter(texts), SPECIAL_TOKENS),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[3:],
        padding_side="left",
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def build_image_processor(frame_size: int) -> Qwen2VLImageProcessorPil:
    """Build Qwen's image processor for pictures of one size, in the form that needs no torchvision."""
    pixels = frame_size**2
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH_SIZE,
        merge_size=1,
        temporal_patch_size=2,
        size={"shortest_edge": pixels, "longest_edge": pixels},
    )


def build_model(tokenizer: PreTrainedTokenizerFast, frame_size: int) -> Qwen3VLForConditionalGeneration:
    """Build the base with random weights: a token for each patch, which also feeds the second layer (deepstack)."""
    vision = {
        "depth": 4,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_heads": 4,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": 1,
        "temporal_patch_size": 2,
        "out_hidden_size": 96,
        "num_position_embeddings": (frame_size // PATCH_SIZE) ** 2,
        "deepstack_visual_indexes": [1],
        "initializer_range": 0.06,  # the usual scale is made for wider models
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "initializer_range": 0.08,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    numbers = {}
    for name, token in zip(("vision_start", "vision_end", "image", "video"), SPECIAL_TOKENS[3:], strict=True):
        numbers[f"{name}_token_id"] = tokenizer.convert_tokens_to_ids(token)
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **numbers)
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def encode_picture(processor: Qwen2VLImageProcessorPil, picture: Image.Image) -> torch.Tensor:
    """Turn a picture into the pixels of its patches, `(p, values)`."""
    return processor(picture, return_tensors="pt")["pixel_values"]


def write_box(processor: Any, size: tuple[int, int], box: Box) -> str:
    """Write a box of the unit square in the dialect of the base."""
    height, width = size
    x1, y1, x2, y2 = box
    return processor.format_boxes([(x1 * width, y1 * height, x2 * width, y2 * height)], size=size)


def ask(question: str) -> dict[str, Any]:
    """Write a user's message."""
    return {"role": "user", "content": [{"type": "text", "text": question}]}


def reply(answer: str) -> dict[str, Any]:
    """Write an assistant's message."""
    return {"role": "assistant", "content": [{"type": "text", "text": answer}]}


def show(frames: Sequence[Image.Image], messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put a clip before the first question."""
    messages[0]["content"].insert(0, {"type": "video", "video": list(frames)})
    return messages


class Chats(torch.utils.data.Dataset):
    """Pictures of the micro-world, each in a chat about all of its road users in a random order."""

    def __init__(self, world: MicroWorld, processor: Any):
        self.world = world
        self.processor = processor

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        sample = self.world.still_sample(index)
        users = self.world.scene(index).users
        rng = np.random.default_rng(index)
        messages = []
        for number in rng.permutation(len(users)):
            user = users[number]
            box = write_box(self.processor, sample.size, user.box())
            if rng.random() < 0.2:
                messages += [ask(f"What is at {box}?"), reply(f"The {user.name}.")]
            else:
                messages += [ask(f"Where is the {user.name}?"), reply(f"The {user.name}{box}.")]
        return show(sample.frames, messages)


@dataclass
class ChatCollator:
    """Turn chats into inputs and `labels`, `(b, l)`, of a base, padded on the right.

    Args:
        processor: an `HMBAVLMProcessor` of the base, which gives what the base's own does for current frames.
    """

    processor: Any

    def __call__(self, chats: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
        """Build one batch."""
        encoded = encode(chats, self.processor, padding_side="right", return_assistant_tokens_mask=True)
        is_answer = torch.as_tensor(encoded["assistant_masks"]).bool()
        batch = {name: encoded[name] for name in INPUTS}
        batch["labels"] = encoded["input_ids"].masked_fill(~is_answer, IGNORE_INDEX)
        return batch


def encode(chats: Sequence[list[dict[str, Any]]], processor: Any, padding_side: str, **options: Any) -> Any:
    """Turn chats into inputs of a model."""
    padding = {"padding": True, "padding_side": padding_side, "return_tensors": "pt"}
    return processor.apply_chat_template(chats, tokenize=True, return_dict=True, processor_kwargs=padding, **options)


@torch.no_grad()
def answer(model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 50) -> list[str]:
    """Answer about samples, greedily; questions are asked as they are, without words about boxes."""
    model.eval()
    answers = []
    for start in range(0, len(samples), batch_size):
        part = [samples[index] for index in range(start, min(start + batch_size, len(samples)))]
        chats = [show(sample.frames, [ask(sample.question)]) for sample in part]
        inputs = encode(chats, processor, padding_side="left", add_generation_prompt=True)
        answers += generate_answers(model, processor, inputs, {"max_new_tokens": 64})
    return answers


def train_visual(model: Qwen3VLForConditionalGeneration, patches: Patches, steps: int) -> None:
    """Train the vision tower and its merger, and give the language model's pictures unit scale."""
    visual = model.model.visual
    side = len(patches.centres)

    def read(pixels: torch.Tensor) -> torch.Tensor:
        grid = torch.tensor([[1, side, side]]).expand(len(pixels), -1)
        rows = visual(pixels.flatten(0, 1), grid_thw=grid).pooler_output
        return rows.unflatten(0, pixels.shape[:2])  # (b, p, width)

    rows = train_tower(read, learning_first(model), model.config.text_config.hidden_size, patches, steps)
    size = rows.pow(2).mean().sqrt()
    with torch.no_grad():
        for parameter in visual.merger.linear_fc2.parameters():
            parameter.div_(size)


def learning_first(model: Qwen3VLForConditionalGeneration) -> list[torch.nn.Parameter]:
    """Return the parameters of the vision tower and its merger, without those that feed deeper layers."""
    return [value for name, value in model.model.visual.named_parameters() if "deepstack" not in name]


def main() -> None:
    """Train the base and save it with its tokenizer, image processor and card."""
    (args,) = HfArgumentParser(VLMArguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    folder = Path(args.output_dir)
    world = MicroWorld(MicroWorldConfig(seed=args.seed, frame_size=args.frame_size), "train", args.num_pictures)
    tokenizer = build_tokenizer(world)
    image_processor = build_image_processor(args.frame_size)
    model = build_model(tokenizer, args.frame_size)
    visual = folder / "visual.safetensors"
    if not visual.exists():
        train_visual(model, Patches(world, partial(encode_picture, image_processor)), args.tower_steps)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.model.visual.state_dict(), visual)
    model.model.visual.load_state_dict(load_file(visual))
    for name, parameter in model.model.visual.named_parameters():
        parameter.requires_grad_("merger" in name)
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    processor = HMBAVLMProcessor.from_base_pretrained(str(folder))
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=Chats(world, processor),
        data_collator=ChatCollator(processor),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(folder))
    model.save_pretrained(folder)
    held_out = MicroWorld(world.config, "test", args.num_test_pictures)
    pictures = [held_out.still_sample(index, "where") for index in range(len(held_out))]
    whole = HMBAVLMForConditionalGeneration.from_base_pretrained(str(folder), adapter="none")
    scores = score_grounding(answer(whole, processor, pictures), pictures, processor)
    questions = args.max_steps * args.per_device_train_batch_size * world.config.num_objects
    command = shlex.join(["python", "examples/train_micro_vlm.py", *sys.argv[1:]])
    card = {"count": model.num_parameters(), "scores": scores, "command": command, "questions": questions}
    (folder / "README.md").write_text(CARD.format(**card))


if __name__ == "__main__":
    main()
