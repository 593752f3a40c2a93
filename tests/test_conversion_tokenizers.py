"""Tokenizers that come as a sentencepiece model: the converted ones give what the original code learned from."""

import io
import json
import subprocess
import sys

import pytest
import sentencepiece
import torch
from PIL import Image
from transformers import AutoProcessor

from original_checkpoints import CONVERSION, SHIKRA_TOKENS, golden_weights, run_conversion, save_original, save_weights
from test_conversion_llava import save_original_llava

QUESTION = (
    "Please tell which object is at the highest risk for the ego car in the image ",
    " and give coordinates [x1,y1,x2,y2] for the object you mention.",
)
ANSWER = "A white van[0.412,0.377,0.598,0.611] is cutting in."
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PIECES = 420


def save_sentencepiece(folder, **settings):
    """Put a sentencepiece model like Llama's in the place of a folder's tokenizer; return it."""
    model, lines = io.BytesIO(), [*QUESTION, ANSWER, SYSTEM, "USER: ASSISTANT: Why? Where is it?"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        num_threads=1,
        minloglevel=2,
    )
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **settings}))
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture
def shikra(golden, tmp_path):
    """The folder of a Shikra with random embeddings for the tokens of `save_sentencepiece`."""
    tensors, facts = golden("hmba_e2e_small")
    weights = {k: v for k, v in golden_weights(tensors).items() if not k.startswith("model.hmba.")}
    rows = PIECES + len(SHIKRA_TOKENS)
    weights |= {name: torch.randn(rows, 32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    folder = save_original(tmp_path, tensors, facts)
    save_weights(folder, weights)
    return folder


def chat():
    frames = [Image.new("RGB", (40, 20))] * 5
    (before, after), video = QUESTION, {"type": "video", "video": frames}
    blocks = [{"type": "text", "text": before}, video, {"type": "text", "text": after}]
    return [{"role": "user", "content": blocks}, {"role": "assistant", "content": ANSWER}]


@pytest.mark.parametrize("has_added", [False, True])
def test_a_sentencepiece_model_gives_shikra_the_tokens_that_it_learned_from(has_added, shikra, tmp_path):
    pieces = save_sentencepiece(shikra)
    if has_added:
        (shikra / "added_tokens.json").write_text(json.dumps({t: PIECES + i for i, t in enumerate(SHIKRA_TOKENS)}))
    run_conversion("convert_hmba.py", "--checkpoint", shikra, "--output_dir", tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    tokenizer = processor.tokenizer
    patch, start, end = range(PIECES, PIECES + 3)
    assert tokenizer.convert_tokens_to_ids(SHIKRA_TOKENS) == [patch, start, end]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert tokenizer.padding_side == "left"
    inputs = processor.apply_chat_template(
        chat(), tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    # The slow tokenizer of 2023 reads the texts between special tokens one by one; added ones eat the spaces there.
    before, after = f"{SYSTEM} USER: {QUESTION[0].rstrip()}", f"{QUESTION[1].lstrip()} ASSISTANT: {ANSWER}"
    wanted = [1, *pieces.encode(before), start, *[patch] * 16, end, *pieces.encode(after), 2]
    assert inputs["input_ids"][0].tolist() == wanted
    learned = inputs["input_ids"][0][inputs["assistant_masks"][0].bool()].tolist()
    assert learned == [*pieces.encode(ANSWER), 2]
    assert tokenizer.decode(learned, skip_special_tokens=True) == ANSWER
    assert processor.parse_boxes(tokenizer.decode(learned))[0].box == (0.412, 0.377, 0.598, 0.611)


def test_a_tokenizer_that_says_it_is_no_legacy_one_stays_so(shikra, tmp_path):
    save_sentencepiece(shikra, legacy=False)
    run_conversion("convert_hmba.py", "--checkpoint", shikra, "--output_dir", tmp_path / "ours")
    tokenizer = AutoProcessor.from_pretrained(tmp_path / "ours").tokenizer
    tokens = tokenizer.tokenize("car</s>car")
    assert tokens[0][0] == "▁" != tokens[tokens.index("</s>") + 1][0]


def test_a_sentencepiece_model_gives_llava_its_tokens(tmp_path):
    source = tmp_path / "llava"
    save_original_llava(source, tmp_path / "clip", words=PIECES)
    pieces = save_sentencepiece(source)
    run_conversion("convert_llava.py", "--checkpoint", source, "--output_dir", tmp_path / "ours")
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    picture = [Image.new("RGB", (28, 28))]
    ids = processor(text="USER: <image>\nWhere is it? ASSISTANT:", videos=[picture]).input_ids[0]
    # LLaVA cuts the prompt at the picture and has its parts tokenized one by one.
    assert list(ids) == [1, *pieces.encode("USER: "), *[PIECES] * 4, *pieces.encode("\nWhere is it? ASSISTANT:")]
    assert processor.tokenizer.pad_token_id == 0


def test_a_folder_without_a_vocabulary_is_refused(shikra, tmp_path):
    (shikra / "tokenizer.json").unlink()
    (shikra / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    with pytest.raises(ValueError, match=r"must have a tokenizer, one of .*tokenizer\.model.*, got none"):
        run_conversion("convert_hmba.py", "--checkpoint", shikra, "--output_dir", tmp_path / "ours")


def test_where_sentencepiece_is_not_installed_one_sentence_says_what_to_install(shikra, tmp_path):
    for path in shikra.glob("*token*"):
        path.unlink()
    (shikra / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    code = "import runpy, sys; sys.modules['sentencepiece'] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = ["--checkpoint", str(shikra), "--output_dir", str(tmp_path / "ours")]
    script = str(CONVERSION / "convert_hmba.py")
    code = f"import sys; sys.argv = {[script, *words]!r}; sys.path.insert(0, {str(CONVERSION)!r}); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"the tokenizer of {shikra} is a sentencepiece model: Run `pip install sentencepiece protobuf`"
    )
    assert not (tmp_path / "ours").exists()
