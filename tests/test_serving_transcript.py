"""The text of an answer while its tokens come is the text of all of them, decoded anew."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from hmba_hf.serving.transcript import Transcript

WORDS = [
    "the",
    " the",
    "van",
    " van",
    " stops",
    ".",
    " .",
    ", ",
    "n't",
    " do",
    " not",
    "ing",
    " ",
    "  ",
    "é",
    "中文",
    "🚗",
]
TORN = ["中", "🚗", "é"]  # of which single bytes are tokens, too
LENGTH = 400


def byte_level():
    """A tokenizer as GPT-2's, whose tokens are bytes."""
    letters = bytes_to_unicode()
    pieces = [word.encode() for word in WORDS] + [bytes([number]) for number in range(256)]
    pieces += [word.encode()[:2] for word in TORN]
    names = dict.fromkeys("".join(letters[byte] for byte in piece) for piece in pieces)
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece():
    """A tokenizer as Llama's, which falls back on bytes where it has no piece."""
    names = [word.replace(" ", "▁") for word in WORDS] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def word_piece():
    """A tokenizer as BERT's, which joins words and cleans up the spaces between them."""
    names = ["the", "van", "stop", "##s", "##ing", ".", ",", "'", "t", "do", "not", "n't", "中", "[UNK]"]
    tokenizer = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return tokenizer


def drawn_tokens(tokenizer, kind, seed):
    """Draw tokens, of which most are words, with letters in their bytes and special tokens among them."""
    draw = random.Random(seed)
    number_of = tokenizer.get_vocab()
    letters = bytes_to_unicode()
    tokens = []
    while len(tokens) < LENGTH:
        chance = draw.random()
        if kind is word_piece or chance < 0.5:
            tokens.append(draw.randrange(len(WORDS) if kind is not word_piece else 13))
        elif chance < 0.6:
            tokens.append(number_of["</s>"])
        else:
            whole = draw.choice(TORN).encode()
            torn = whole if chance < 0.8 else whole[draw.randrange(2) : draw.randrange(1, 5)]
            if chance > 0.98:
                torn = whole * 16  # which SentencePiece shows only when it has all of them
            names = [letters[byte] if kind is byte_level else f"<0x{byte:02X}>" for byte in torn]
            tokens += [number_of[name] for name in names]
    return tokens[:LENGTH]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", [byte_level, sentence_piece, word_piece])
def test_an_answer_whose_last_tokens_alone_are_decoded_has_the_text_of_all(kind, seed):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=kind(), eos_token=AddedToken("</s>", special=True))
    lengths = []

    def decode(tokens):
        lengths.append(len(tokens))
        return tokenizer.decode(tokens, skip_special_tokens=True)

    transcript = Transcript(decode, (), LENGTH + 1, is_shown=True)
    tokens = drawn_tokens(tokenizer, kind, seed)
    for number, token in enumerate(tokens, start=1):
        transcript.add(token)
        assert transcript._text_so_far() == tokenizer.decode(tokens[:number], skip_special_tokens=True)
    assert sum(lengths) < LENGTH**2 / 2, "the tokens of all of the answer are decoded for each"
