"""Train the micro-world's base model: a tiny image model that names road users and prints their boxes.

It stands in for CLIP and Shikra: it grounds objects of single pictures in text and knows nothing of motion. First the
vision tower learns the name and the box of what stands in each patch. Then the tower is frozen, and projector and
language model learn to answer. The demo and the studies start from this model. This command made the checkpoint in
`examples/micro_base/`:

    python examples/train_micro_base.py --output_dir examples/micro_base

The model's answers about real roads are worth nothing.
"""

import itertools
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm.auto import tqdm
from transformers import (
    CLIPVisionConfig,
    HfArgumentParser,
    LlamaConfig,
    PreTrainedTokenizerFast,
    TrainingArguments,
    set_seed,
)

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAProcessor, HMBAVideoProcessor
from hmba_hf.data.micro_world.drawing import COLOURS, KINDS
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Sample
from hmba_hf.tasks.answering.boxes import score_grounding
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.generation import answer_samples
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training import set_trainable

PATCH_SIZE = 8
NAMES = [f"{colour} {kind}" for kind in KINDS for colour in COLOURS]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<video>"]
# Vicuna's template without its long system sentence, which is of no use to so small a model.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {{- 'ASSISTANT: ' -}}
        {%- generation -%}{{- message['content'] ~ eos_token -}}{%- endgeneration -%}
    {%- elif message['role'] == 'user' -%}
        {{- 'USER: ' ~ message['content'] ~ ' ' -}}
    {%- else -%}
        {{- raise_exception('expected the role user or assistant, got ' ~ message['role']) -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""


CARD = """\
---
library_name: transformers
pipeline_tag: video-text-to-text
license: apache-2.0
tags: [hmba, micro-world]
---
# The micro-world's base model

An H-MBA model of {count:,} parameters without a temporal adapter (`adapter="none"`). It names the road users of one
drawn picture and gives their boxes, and knows nothing of motion. `hmba demo` and `hmba study` fine-tune it.

It learned from random weights on drawn pictures of the micro-world, by a program that comes with the source
of hmba-hf. It was evaluated on {scores.count} held-out pictures with questions such as "Where is the red truck?":

| mIoU | Acc@0.5 | share of unparsed answers |
|---|---|---|
| {scores.mean_iou:.3f} | {scores.accuracy:.3f} | {scores.unparsed:.3f} |

These numbers hold for the micro-world alone. The model's answers about real roads are worth nothing.
"""


@dataclass
class BaseArguments(TrainingArguments):
    """`TrainingArguments` with this model's defaults, and the size of the world."""

    num_pictures: int = field(default=60000, metadata={"help": "different pictures to train on"})
    num_test_pictures: int = field(default=500, metadata={"help": "held-out pictures to measure the base on"})
    frame_size: int = field(default=64, metadata={"help": "side of a picture in pixels"})
    tower_steps: int = field(default=1200, metadata={"help": "of training the vision tower, with 64 pictures each"})
    max_steps: int = 2500
    per_device_train_batch_size: int = 32
    learning_rate: float = 2e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 100
    weight_decay: float = 0.01
    adam_beta2: float = 0.98
    logging_steps: int = 50
    save_strategy: str = "no"
    report_to: str = "none"
    remove_unused_columns: bool = False
    dataloader_num_workers: int = 1
    seed: int = 0


class Stills(torch.utils.data.Dataset):
    """Questions about single pictures of the micro-world."""

    def __init__(self, world: MicroWorld):
        self.world = world

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> Sample:
        return self.world.still_sample(index)


def world_texts(world: MicroWorld) -> Iterator[str]:
    """Yield questions and answers of the world, for the tokenizer."""
    for index in range(min(2000, len(world))):
        for sample in (world[index], world.still_sample(index)):
            yield f"USER: {sample.question} ASSISTANT: {sample.answer}"


def learn_tokens(texts: Iterator[str], special_tokens: Sequence[str]) -> Tokenizer:
    """Train a byte-level BPE in which each digit and punctuation mark of a box is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\d.,;\[\]]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(special_tokens),
        initial_alphabet=alphabet,
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train the tokens, and put the chat template and `<s>` around them."""
    tokenizer = learn_tokens(texts, SPECIAL_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<video>"],
        padding_side="left",
        model_max_length=512,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, frame_size: int) -> HMBAForConditionalGeneration:
    """Build the base: a small CLIP tower, no adapter, and a small Llama."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=frame_size,
        patch_size=PATCH_SIZE,
        initializer_factor=3.0,  # the usual scale is made for wider models
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = HMBAConfig(
        vision_config=vision,
        text_config=text,
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        adapter="none",
        state_size=8,  # of the adapter that will be put on it: as small as the rest
        expand=1,
    )
    return HMBAForConditionalGeneration(config)


class Patches(torch.utils.data.Dataset):
    """Pictures, and for each patch the number of the road user in it (0 for none) and its box.

    `encode` turns a picture into the pixels of a model.
    """

    def __init__(self, world: MicroWorld, encode: Callable[[Image.Image], torch.Tensor]):
        self.world = world
        self.encode = encode
        side = world.config.frame_size // PATCH_SIZE
        self.centres = (torch.arange(side) + 0.5) / side

    def __len__(self) -> int:
        return len(self.world)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        picture = self.world.still_sample(index, "where").frames[0]
        pixels = self.encode(picture)
        side = len(self.centres)
        names = torch.zeros(side, side, dtype=torch.long)
        boxes = torch.zeros(side, side, 4)
        for user in sorted(self.world.scene(index).users, key=lambda user: user.y):  # nearer ones hide farther ones
            x1, y1, x2, y2 = user.box()
            inside = self._covered(y1, y2)[:, None] & self._covered(x1, x2)
            names[inside] = 1 + NAMES.index(user.name)
            boxes[inside] = torch.tensor((x1, y1, x2, y2))
        return pixels, names.flatten(), boxes.flatten(0, 1)

    def _covered(self, low: float, high: float) -> torch.Tensor:
        return (self.centres >= low - 0.03) & (self.centres <= high + 0.03)


def train_tower(
    read: Callable[[torch.Tensor], torch.Tensor],
    tower: Iterable[torch.nn.Parameter],
    width: int,
    patches: Patches,
    steps: int,
) -> torch.Tensor:
    """Train a vision tower to name and box the content of its patches; return the last features.

    Args:
        read: turns pixels of pictures into features of their patches, `(b, p, width)`.
        tower: its parameters that learn.
        width: of the features.
        patches: to learn from.
        steps: of 64 pictures each.
    """
    head = torch.nn.Sequential(torch.nn.LayerNorm(width), torch.nn.Linear(width, 1 + len(NAMES) + 4))
    parameters = [*tower, *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, weight_decay=0.01, betas=(0.9, 0.98))
    loader = torch.utils.data.DataLoader(patches, batch_size=64, shuffle=True, num_workers=1)
    batches = itertools.chain.from_iterable(itertools.repeat(loader, steps))  # as many epochs as steps may want
    progress = tqdm(range(steps), desc="vision tower")
    for step, (pixels, names, boxes) in zip(progress, batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, step / 50) * (1 + math.cos(math.pi * step / steps)) / 2
        hidden = read(pixels)
        scores, places = head(hidden).split([1 + len(NAMES), 4], dim=-1)
        seen = names > 0
        loss = F.cross_entropy(scores.flatten(0, 1), names.flatten())
        loss = loss + 5 * F.smooth_l1_loss(places[seen], boxes[seen], beta=0.05)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 49:
            named = (scores.argmax(-1) == names)[seen].float().mean()
            progress.set_postfix(loss=f"{loss:.3f}", named=f"{named:.2f}")
    return hidden.detach()


def encode_picture(processor: HMBAVideoProcessor, picture: Image.Image) -> torch.Tensor:
    """Turn a picture into the pixels of the vision tower."""
    return processor(picture, return_tensors="pt")["pixel_values_videos"][0, 0]


def train_clip_tower(model: HMBAForConditionalGeneration, patches: Patches, steps: int) -> None:
    """Train the tower that the model reads, and scale the projector to unit outputs."""
    tower = model.model.vision_tower
    width = model.config.vision_config.hidden_size

    def read(pixels: torch.Tensor) -> torch.Tensor:
        return tower(pixels, output_hidden_states=True).hidden_states[model.config.vision_feature_layer][:, 1:]

    hidden = train_tower(read, tower.parameters(), width, patches, steps)
    scale = hidden.pow(2).mean().sqrt() * math.sqrt(width)
    torch.nn.init.normal_(model.model.multi_modal_projector.weight, std=1 / float(scale))


@torch.no_grad()
def give_features_unit_scale(model: HMBAForConditionalGeneration, batch: dict[str, torch.Tensor]) -> None:
    """Scale the tower's features to unit size, as CLIP's are, and the projector against it; answers stay the same.

    Each layer of the tower normalises its input, so scaling the output of every layer scales the features alone.
    """
    model.eval()
    pixels = batch["pixel_values_videos"].to(model.device)
    size = model.get_video_features(pixels).last_hidden_state.pow(2).mean().sqrt()
    tower = model.model.vision_tower
    writers = [tower.pre_layrnorm]
    for layer in tower.encoder.layers:
        writers += [layer.self_attn.out_proj, layer.mlp.fc2]
    for writer in writers:
        for parameter in writer.parameters():
            parameter.div_(size)
    model.model.multi_modal_projector.weight.mul_(size)


def main() -> None:
    """Train the base and save it with its processor."""
    (args,) = HfArgumentParser(BaseArguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    world = MicroWorld(MicroWorldConfig(seed=args.seed, frame_size=args.frame_size), "train", args.num_pictures)
    tokenizer = build_tokenizer(world_texts(world))
    size = {"height": args.frame_size, "width": args.frame_size}
    video_processor = HMBAVideoProcessor(size=size)
    processor = HMBAProcessor(video_processor, tokenizer, patch_size=PATCH_SIZE)
    model = build_model(tokenizer, args.frame_size)
    train_clip_tower(model, Patches(world, partial(encode_picture, video_processor)), args.tower_steps)
    set_trainable(model, ["projector", "language_model"])
    trainer = AdapterTrainer(
        model=model, args=args, train_dataset=Stills(world), data_collator=SampleCollator(processor)
    )
    trainer.train()
    stills = [world.still_sample(index) for index in range(32)]
    give_features_unit_scale(model, SampleCollator(processor)(stills))
    held_out = MicroWorld(world.config, "test", args.num_test_pictures)
    save(model, processor, held_out, Path(args.output_dir))


def save(model: HMBAForConditionalGeneration, processor: HMBAProcessor, held_out: MicroWorld, folder: Path) -> None:
    """Save the base with its card, without the code that a checkpoint carries: it lives beside that code."""
    with tempfile.TemporaryDirectory() as whole:
        model.save_pretrained(whole)
        processor.save_pretrained(whole)
        folder.mkdir(parents=True, exist_ok=True)
        for file in Path(whole).iterdir():
            if file.suffix != ".py":
                shutil.copyfile(file, folder / file.name)
    pictures = [held_out.still_sample(index, "where") for index in range(len(held_out))]
    scores = score_grounding(answer_samples(model, processor, pictures), pictures, processor)
    count = sum(parameter.numel() for parameter in model.parameters())
    (folder / "README.md").write_text(CARD.format(count=count, scores=scores))


if __name__ == "__main__":
    main()
