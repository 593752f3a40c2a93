"""The README's way of weights: convert, fine-tune, push, and answer from the Hub."""

import json
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration, pipeline

from original_checkpoints import CONVERSION, PICTURES, run_conversion
from tiny_models import tiny_tower
from tiny_processors import tiny_tokenizer

EXAMPLES = CONVERSION.parent / "examples"
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}

pytestmark = pytest.mark.timeout(600)


def run_example(script, *words):
    done = subprocess.run([sys.executable, str(EXAMPLES / script), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def save_llava(folder):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    values = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 2048}
    config = LlavaConfig(
        vision_config=tiny_tower(image_size=32, patch_size=16),
        text_config=AutoConfig.for_model("llama", **values),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PICTURES))


def test_a_converted_model_is_fine_tuned_pushed_and_answers(hub, tmp_path):
    save_llava(tmp_path / "llava")
    run_conversion("convert_llava.py", "--checkpoint", tmp_path / "llava", "--output_dir", tmp_path / "base")
    words = ["--model", tmp_path / "base", "--dataset_name", "micro-world", "--use_cpu", "True"]
    words += ["--max_steps", 2, "--per_device_train_batch_size", 2, "--max_train_samples", 4]
    run_example("finetune.py", *words, "--output_dir", tmp_path / "tuned")
    printed = run_example("push.py", "--model", tmp_path / "tuned", "--repo_id", "org/hmba-tuned")
    assert "pushed: " in printed and hub.repository("org/hmba-tuned").private
    assert "micro-world" in ModelCard(hub.repository("org/hmba-tuned").files()["README.md"].decode()).data.tags

    pipe, here = (
        pipeline("video-text-to-text", model=str(name), device="cpu")
        for name in ("org/hmba-tuned", tmp_path / "tuned")
    )
    assert pipe.model.model.temporal_adapter.gate.any(), "it has learned"
    frames = [Image.new("RGB", (32, 32), (0, 40 * i, 80)) for i in range(5)]
    asked = {"videos": frames, "text": "Which object is the risk?", "generate_kwargs": {"max_new_tokens": 3}}
    assert pipe(**asked) == here(**asked)
