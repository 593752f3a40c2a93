"""Drawn clips with a class for each of two heads and questions about them, and tiny models that answer them."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import CLIPImageProcessor, CLIPVisionModel, PreTrainedTokenizerFast, RobertaModel

from hmba_hf.data.actions.questioned import Question, QuestionedSample, questioned_features, to_questioned_row
from hmba_hf.data.clips import write_video
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification
from hmba_hf.models.processing_mambavl import MambaVLProcessor
from hmba_hf.models.video_processing_mambavl import MambaVLVideoProcessor
from tiny_mambavl import tiny_config, tiny_text_config, tiny_vision_config

HEADS = {"verb": ["moves left", "moves right", "stays"], "noun": ["red square", "blue square"]}
QUESTIONS = {"verb": "what does it do ?", "noun": "which one is it ?"}
COLOURS = ((200, 40, 40), (40, 40, 200))
SIDE = 16
NUM_FRAMES = 2
_MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_WORDS = "what which where this one does do is a the red blue square it moves move left right stays stay of ?".split()


class AskedClips(list):
    """Drawn clips of a square that moves, or stands still; every question names the class of the other head."""

    def __init__(self, count, changed=None, heads=HEADS):
        super().__init__(self.draw(number) for number in range(count))
        for number, values in (changed or {}).items():
            self[number] = replace(self[number], **values)
        self.rows = SimpleNamespace(features=questioned_features(heads))

    @staticmethod
    def draw(number):
        verb = number % 3
        noun = number % 2
        frames = []
        for step in range(4):
            picture = np.full((20, 24, 3), 30 + number, dtype=np.uint8)
            left = 10 + (step * (-2, 2, 0)[verb])
            picture[8:14, left : left + 5] = COLOURS[noun]
            frames.append(Image.fromarray(picture))
        names = {"verb": HEADS["verb"][verb], "noun": HEADS["noun"][noun]}
        questions = (
            Question("verb", "annotation", f"what does the {names['noun']} do ?"),
            Question("noun", "annotation", f"which one {names['verb']} ?"),
        )
        tags = ("unseen",) if number % 2 else ("tail_noun",)
        return QuestionedSample(
            f"clip {number}", tuple(frames), {"verb": verb, "noun": noun}, names, questions, tags=tags
        )


def tiny_asked_tokenizer():
    numbers = {word: number for number, word in enumerate([*_MARKS, *_WORDS])}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    marks = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    named = {f"{name}_token": mark for name, mark in marks.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def tiny_asked_processor(heads=HEADS, questions=None):
    size = {"height": SIDE, "width": SIDE}
    clips = MambaVLVideoProcessor(num_frames=NUM_FRAMES, size={"shortest_edge": SIDE}, crop_size=size)
    given = {head: QUESTIONS[head] for head in heads} if questions is None else questions
    return MambaVLProcessor(clips, tiny_asked_tokenizer(), heads=heads, questions=given)


def save_mambavl(folder, heads=HEADS, **values):
    torch.manual_seed(0)
    MambaVLForVideoClassification(tiny_config(heads=heads, **values)).save_pretrained(folder)
    tiny_asked_processor(heads).save_pretrained(folder)
    return folder


def save_halves(folder):
    """Save a tiny CLIP tower and a tiny RoBERTa with what reads for them."""
    torch.manual_seed(0)
    CLIPVisionModel(tiny_vision_config()).save_pretrained(folder / "vision")
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder / "vision")
    RobertaModel(tiny_text_config()).save_pretrained(folder / "text")
    tiny_asked_tokenizer().save_pretrained(folder / "text")
    return folder / "vision", folder / "text"


def write_asked_dataset(folder, clips, split="test", broken=None):
    """Write clips as files in rows of the Hub's schema; `broken` is the id of one that is none."""
    rows = []
    for clip in clips:
        file = io.BytesIO()
        write_video(file, clip.video, 4)
        content = b"no video" if clip.id == broken else file.getvalue()
        rows.append(to_questioned_row(replace(clip, video=content), f"{clip.id}.mp4"))
    (folder / "data").mkdir(parents=True, exist_ok=True)
    path = folder / "data" / f"{split}-00000-of-00001.parquet"
    Dataset.from_list(rows, features=questioned_features(HEADS)).to_parquet(path)
