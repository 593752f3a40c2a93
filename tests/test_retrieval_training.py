"""Training on pairs of videos and texts: what is hidden, what is learned, and exact resume."""

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from hmba_hf import VideoMambaConfig, VideoMambaForPreTraining
from hmba_hf.data.loading import load_samples
from hmba_hf.tasks.retrieval.arguments import parse_arguments
from hmba_hf.tasks.retrieval.base_model import set_drop_path
from hmba_hf.tasks.retrieval.encoding import PairCollator, PairEncoder, hide_tokens
from hmba_hf.tasks.retrieval.run import train
from tiny_pairs import TEXT, VISION, WORDS, tiny_pair_processor, tiny_pair_tokenizer, tiny_retrieval
from tiny_teachers import save_tiny_teacher

WORLD = {"frame_size": 16}


@pytest.fixture
def pairs():
    return load_samples("micro-actions", "train", 4, **WORLD)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "base"
    torch.manual_seed(0)
    tiny_retrieval().save_pretrained(folder)
    tiny_pair_processor().save_pretrained(folder)
    return folder


def train_tiny(folder, *words):
    own = ["--dataset_name", "micro-actions", "--max_train_samples", 6, "--output_dir", folder, "--use_cpu", "True"]
    fast = ["--per_device_train_batch_size", 2, "--logging_steps", 1, "--disable_tqdm", "True"]
    words = [*own, *fast, "--learning_rate", "1e-2", *words]
    return train(*parse_arguments("", [str(word) for word in words]))


def test_half_of_the_words_are_hidden_and_special_tokens_never():
    tokenizer = tiny_pair_tokenizer()
    tokens = torch.tensor([2, *[7] * 4000, 3])
    masked, labels = hide_tokens(tokens, tokenizer, 0.5, torch.Generator().manual_seed(0))
    guessed = labels != -100
    assert not guessed[0] and not guessed[-1]
    assert 0.47 < guessed.float().mean() < 0.53
    assert torch.equal(labels[guessed], tokens[guessed])
    assert torch.equal(masked[~guessed], tokens[~guessed])
    shown = masked[guessed]
    assert 0.77 < (shown == tokenizer.mask_token_id).float().mean() < 0.83
    assert 0.08 < (shown == 7).float().mean() < 0.14  # those that are left, and one in so many drawn ones
    assert shown.max() < len(WORDS)


def test_equal_texts_are_one_pair_and_batches_are_padded(pairs):
    encoder = PairEncoder(tiny_pair_processor())
    encoded = [encoder.encode(pairs[index]) for index in (0, 1, 0)]
    batch = PairCollator(0)(encoded)
    assert batch["pixel_values_videos"].shape == (3, 3, 3, 16, 16)
    assert batch["pair_ids"][0] == batch["pair_ids"][2] != batch["pair_ids"][1]
    longest = max(len(one["input_ids"]) for one in encoded)
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape == (3, longest)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(one["input_ids"]) for one in encoded]


def test_what_is_drawn_depends_on_the_generator_alone(pairs):
    encoder = PairEncoder(tiny_pair_processor())
    first, again, other = (encoder.encode(pairs[0], torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["mask_seed"] != other["mask_seed"]
    assert torch.equal(encoder.encode(pairs[0])["masked_input_ids"], encoder.encode(pairs[0])["masked_input_ids"])


def test_two_steps_with_a_resume_equal_an_undisturbed_run(checkpoint, tmp_path):
    words = ["--model", checkpoint, "--max_steps", 2, "--save_steps", 1]
    whole = train_tiny(tmp_path / "whole", *words)
    train_tiny(tmp_path / "halved", *words)
    for path in sorted((tmp_path / "halved").glob("checkpoint-2/*")):
        path.unlink()
    (tmp_path / "halved" / "checkpoint-2").rmdir()
    resumed = train_tiny(tmp_path / "halved", *words)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name


def test_halves_are_joined_and_learn_from_a_teacher(tmp_path):
    torch.manual_seed(0)
    VideoMambaForPreTraining(VideoMambaConfig(**{**VISION, "alignment_size": 20})).save_pretrained(tmp_path / "vision")
    tiny_pair_processor().video_processor.save_pretrained(tmp_path / "vision")
    BertForMaskedLM(BertConfig(**TEXT)).save_pretrained(tmp_path / "text")
    tiny_pair_tokenizer().save_pretrained(tmp_path / "text")
    teacher = save_tiny_teacher(tmp_path / "teacher", image_size=32, patch_size=16)
    words = ["--vision", tmp_path / "vision", "--text", tmp_path / "text", "--teacher", teacher]
    words += ["--mask_ratio", 0.5, "--max_steps", 4, "--eval_strategy", "steps", "--eval_steps", 2]
    run = tmp_path / "run"
    trainer = train_tiny(run, *words, "--max_eval_samples", 3, "--drop_path_rate", 0.1)
    assert trainer.model.config.vision_config.drop_path_rate == 0.1
    history = json.loads(Path(run / "history.json").read_text())
    assert len(history["loss"]) == 4
    assert all(loss > 0 for _, loss in history["loss"])
    assert len(history["metrics"]["loss"]) == 2
    again = type(trainer.model).from_pretrained(run)
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_stochastic_depth_out_of_range_is_refused():
    with pytest.raises(ValueError, match="drop_path_rate must be from 0 up to but without 1, got 1.5"):
        set_drop_path(tiny_retrieval(), 1.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of --model and of --vision with --text"),
        (["--vision", "a"], "one of --model and of --vision with --text"),
        (["--model", "a", "--vision", "b", "--text", "c"], "one of --model and of --vision with --text"),
        (["--model", "a", "--teacher_revision", "main"], "teacher_revision must come with --teacher"),
        (["--vision", "a", "--text", "b", "--model_revision", "main"], "model_revision must come with --model"),
        (["--model", "a", "--mask_ratio", "1"], "mask_ratio must be above 0 and below 1"),
        (["--model", "a", "--masking", "tube"], "masking and mask_ratio must be left out without a teacher"),
        (["--model", "a", "--per_device_train_batch_size", "1"], "must be at least 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_tiny(tmp_path, *words)
