"""`examples/finetune_mambavl.py ... --push_to_hub`, and predictions of the model that only the Hub has."""

import io
import json

import numpy as np
from huggingface_hub import ModelCard
from PIL import Image

from asked_clips import save_halves
from hmba_hf.evaluation.records import read_records
from tiny_runs import run_example


def test_a_run_ends_on_the_hub_with_a_picture_and_its_model_is_asked_and_scored_from_there(hub, tmp_path):
    vision, text = save_halves(tmp_path)
    words = ["--vision", vision, "--text", text, "--dataset_name", "micro-questions", "--num_frames", 2]
    words += ["--questions", "annotation", "--max_steps", 1, "--max_train_samples", 2, "--use_cpu", "True"]
    words += ["--per_device_train_batch_size", 2, "--save_strategy", "no", "--disable_tqdm", "True"]
    words += ["--push_to_hub", "--hub_model_id", "org/mambavl", "--hub_license", "apache-2.0"]
    run_example("finetune_mambavl.py", *words, "--output_dir", tmp_path / "run")
    repository = hub.repository("org/mambavl")
    files = repository.files()
    assert repository.private
    assert {"config.json", "model.safetensors", "modeling_mambavl.py", "processing_mambavl.py"} <= files.keys()
    picture = np.asarray(Image.open(io.BytesIO(files["example.png"])))
    assert picture.ndim == 3 and picture.std() > 10
    card = ModelCard(files["README.md"].decode())
    assert (
        "example.png" in card.text and "It learned from questions that were made from the right answers." in card.text
    )
    assert "worth nothing on real videos" in card.text and "| `questions` | annotation |" in card.text
    words = ["--model", "org/mambavl", "--dataset_name", "micro-questions", "--max_samples", 2, "--device_map", "cpu"]
    run_example("evaluate.py", *words, "--draws", 2, "--output_dir", tmp_path / "test")
    first, _ = read_records(tmp_path / "test" / "predictions.jsonl")
    assert first["questions"]["source"] == "generic"  # unless the command says otherwise
    assert json.loads((tmp_path / "test" / "metrics.json").read_text())["questions"] == "generic"
