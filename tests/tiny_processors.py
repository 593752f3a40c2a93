"""A character-level tokenizer, small and exact in both directions, its processor, and clips and chats for it."""

import string

from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPVisionConfig, PreTrainedTokenizerFast

from hmba_hf.models.processing_hmba import HMBAProcessor
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor

CHARACTERS = string.digits + string.ascii_letters + string.punctuation + " \n"  # ids 3 to 98
SPECIAL_TOKENS = {"<video>": 99, "<im_start>": 100, "<im_end>": 101, "<pad>": 102}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token per printable character, Llama's ids for `<unk> <s> </s>`, and a BOS."""
    vocabulary = {token: index for index, token in enumerate(("<unk>", "<s>", "</s>", *CHARACTERS))} | SPECIAL_TOKENS
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<video>", "<im_start>", "<im_end>"],
        model_max_length=2048,
    )


def tiny_processor(**kwargs) -> HMBAProcessor:
    """Build a processor of 28 px frames with 2 x 2 patches, like the tiny model's."""
    video_processor = HMBAVideoProcessor(size={"height": 28, "width": 28})
    return HMBAProcessor(video_processor, tiny_tokenizer(), **kwargs)


def clip(length=3, width=40, height=20, shade=0):
    """Draw a clip whose frames differ."""
    return [Image.new("RGB", (width, height), (shade, 40 * i, 80)) for i in range(length)]


def user(*content):
    """Write a turn of a user from texts and other blocks."""
    blocks = [{"type": "text", "text": block} if isinstance(block, str) else block for block in content]
    return {"role": "user", "content": blocks}


def video(frames):
    """Write the block of a video."""
    return {"type": "video", "video": frames}


def save_sources(folder, image_size=42, patch_size=14):
    """Save the configuration of a vision tower without a processor, and a tokenizer."""
    CLIPVisionConfig(image_size=image_size, patch_size=patch_size).save_pretrained(folder / "vision")
    tiny_tokenizer().save_pretrained(folder / "text")
    return str(folder / "vision"), str(folder / "text")
