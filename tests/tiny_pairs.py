"""A tiny VideoMamba beside a tiny BERT, and what reads videos and texts for them."""

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from hmba_hf import VideoMambaForVideoTextRetrieval, VideoMambaRetrievalConfig
from hmba_hf.models.processing_videomamba import VideoMambaProcessor
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the it square disc bar moves grows shrinks turns left right up down".split()
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 3,
    "alignment_size": 6,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def tiny_pair_config(**options):
    sizes = {"vision_config": VISION, "text_config": TEXT, "num_fusion_layers": 2, "projection_size": 10}
    return VideoMambaRetrievalConfig(**{**sizes, **options})


def tiny_retrieval(**options):
    return VideoMambaForVideoTextRetrieval(tiny_pair_config(**options)).eval()


def tiny_pair_tokenizer():
    numbers = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    marks = [("[CLS]", numbers["[CLS]"]), ("[SEP]", numbers["[SEP]"])]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def tiny_pair_processor(**options):
    side = VISION["image_size"]
    video_processor = VideoMambaVideoProcessor(
        num_frames=VISION["num_frames"], size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return VideoMambaProcessor(video_processor, tiny_pair_tokenizer(), **options)
