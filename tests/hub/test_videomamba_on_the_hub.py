"""A VideoMamba goes to the Hub as every checkpoint of this package does."""

import pytest
import torch

from drawn_clips import save_base
from hmba_hf import VideoMambaConfig, VideoMambaForVideoClassification
from tiny_runs import run_example

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 2,
    "num_labels": 3,
}


@pytest.fixture
def classifier():
    return VideoMambaForVideoClassification(VideoMambaConfig(**SIZES)).eval()


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_classifier_goes_to_a_private_repository_with_code_and_card(hub, classifier, way, tmp_path):
    if way == "push_to_hub":
        classifier.push_to_hub("org/actions")
    else:
        classifier.save_pretrained(tmp_path / "actions", push_to_hub=True, repo_id="org/actions")
    repository = hub.repository("org/actions")
    files = repository.files()
    assert repository.private
    assert {"config.json", "model.safetensors", "modeling_videomamba.py", "README.md"} <= files.keys()
    assert "video-classification" in files["README.md"].decode()
    clips = torch.rand(1, 2, 3, 16, 16)
    again = VideoMambaForVideoClassification.from_pretrained("org/actions")
    assert torch.equal(again(clips).logits, classifier(clips).logits)


def test_a_push_that_nobody_could_undo_is_refused_before_anything_is_written(hub, classifier, tmp_path):
    with pytest.raises(ValueError, match="a push must be to a branch"):
        classifier.save_pretrained(tmp_path / "actions", push_to_hub=True, repo_id="org/actions", create_pr=True)
    assert not (tmp_path / "actions").exists()


def test_a_run_that_ends_on_the_hub_shows_a_clip(hub, tmp_path):
    base = save_base(tmp_path / "base")
    words = ["--model", base, "--dataset_name", "micro-actions", "--max_steps", 1, "--max_train_samples", 2]
    words += [
        "--per_device_train_batch_size",
        2,
        "--save_strategy",
        "no",
        "--use_cpu",
        "True",
        "--disable_tqdm",
        "True",
    ]
    words += ["--push_to_hub", "--hub_model_id", "org/actions", "--output_dir", tmp_path / "run"]
    run_example("finetune_videomamba.py", *words)
    files = hub.repository("org/actions").files()
    assert "example.png" in files and b"worth nothing on real videos" in files["README.md"]
