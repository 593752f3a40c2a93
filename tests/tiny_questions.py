"""A tiny MambaVL's processor, and RoBERTa's own tokenizer with letters alone."""

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, RobertaTokenizer

from hmba_hf.models.processing_mambavl import MambaVLProcessor
from hmba_hf.models.video_processing_mambavl import MambaVLVideoProcessor

SPECIAL = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
WORDS = """
<s> <pad> </s> <unk> What is the object in video ? action performed using hands does person do with take put down cup
Where plate knife pan wash to where taken chopping board now and <mask>
""".split()


def tiny_question_tokenizer(**options):
    """Build a tokenizer of whole words, with RoBERTa's numbers of special tokens, for the model of `tiny_mambavl`."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**SPECIAL, **options})


def tiny_roberta_tokenizer():
    """Build RoBERTa's tokenizer, which has no merges, so that each byte is a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", "<unk>", *letters, "<mask>"]
    return RobertaTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[])


def tiny_clip_reader(**options):
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}, "num_frames": 3}
    return MambaVLVideoProcessor(**{**sizes, **options})


def tiny_question_processor(tokenizer=None, **options):
    return MambaVLProcessor(tiny_clip_reader(), tokenizer or tiny_question_tokenizer(), **options)
