"""Masked pre-training from options to history: exact resume, cached features, cost of what is hidden, refusals."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from hmba_hf.evaluation.predicting import predict_splits
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.families import family_of, find_task, load_model
from hmba_hf.flops import count_flops
from hmba_hf.hub import save_checkpoint
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.layers_video_masks import tube_mask
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from hmba_hf.tasks.pretraining.arguments import ModelArguments, parse_arguments
from hmba_hf.tasks.pretraining.distances import DistanceArguments
from hmba_hf.tasks.pretraining.student import load_student
from hmba_hf.training.clip_teacher import ClipTeacher
from tiny_pretraining import pretrain_tiny, save_student, save_teacher, tiny_processor
from tiny_runs import run_script

EXAMPLE = Path(__file__).parents[1] / "examples" / "pretrain_videomamba.py"
EVALUATED = ["--eval_strategy", "epoch", "--max_eval_samples", 4]
ONE_STEP = ["--max_steps", 1, "--save_strategy", "no"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"))


def history(folder):
    return json.loads((folder / "history.json").read_text())


def assert_same_result(folder, wanted):
    """The same losses and metrics, and the same weights, to the bit."""
    for name in ("loss", "metrics"):
        assert history(folder)[name] == history(wanted)[name]
    found = load_file(folder / "model.safetensors")
    expected = load_file(wanted / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Stopped(Exception):
    pass


def stop_at(step, monkeypatch):
    """Let a run break down at the beginning of a step."""
    from hmba_hf.tasks.pretraining.trainer import PretrainingTrainer

    train = PretrainingTrainer.training_step

    def train_or_stop(self, *args, **kwargs):
        if self.state.global_step == step:
            raise Stopped
        return train(self, *args, **kwargs)

    monkeypatch.setattr(PretrainingTrainer, "training_step", train_or_stop)


def test_a_run_that_breaks_down_ends_as_one_that_does_not(student, teacher, tmp_path, monkeypatch):
    words = ["--num_train_epochs", 2, "--drop_path_rate", 0.4, "--save_strategy", "steps", "--save_steps", 2]
    words += ["--dataloader_num_workers", 1, *EVALUATED]
    pretrain_tiny(student, teacher, tmp_path / "undisturbed", *words)
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        stop_at(5, patch)
        pretrain_tiny(student, teacher, tmp_path / "run", *words)
    trainer = pretrain_tiny(student, teacher, tmp_path / "run", *words)
    assert trainer.state.global_step == 6
    assert_same_result(tmp_path / "run", tmp_path / "undisturbed")
    losses = [value for _, value in history(tmp_path / "run")["loss"]]
    assert len(losses) == 6 and len(set(losses)) == 6
    assert len(history(tmp_path / "run")["metrics"]["loss"]) == 2
    assert {"loss.png", "metrics.png", "training_arguments.json"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }


def test_a_batch_in_two_parts_teaches_what_the_whole_does(student, teacher, tmp_path):
    words = ["--max_steps", 2, "--save_strategy", "no", "--max_train_samples", 8]
    whole = pretrain_tiny(student, teacher, tmp_path / "whole", *words, "--per_device_train_batch_size", 4)
    parts = pretrain_tiny(student, teacher, tmp_path / "parts", *words, "--gradient_accumulation_steps", 2)
    for name, weight in whole.model.state_dict().items():
        assert_close(parts.model.state_dict()[name], weight, atol=1e-5, rtol=0, msg=name)


def test_cached_features_give_the_same_run_and_the_teacher_looks_once(student, teacher, tmp_path, monkeypatch):
    words = ["--num_train_epochs", 2, "--save_strategy", "no", "--num_views", 1, *EVALUATED]
    pretrain_tiny(student, teacher, tmp_path / "plain", *words)
    cached = [*words, "--teacher_cache", tmp_path / "cache"]
    pretrain_tiny(student, teacher, tmp_path / "first", *cached)
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 6 + 4
    monkeypatch.setattr(ClipTeacher, "__call__", None)  # it cannot look any more
    pretrain_tiny(student, teacher, tmp_path / "second", *cached)
    assert_same_result(tmp_path / "second", tmp_path / "first")
    for name in ("loss", "metrics"):  # but for rounding, since other clips were beside a clip when it was looked at
        assert_close(history(tmp_path / "first")[name], history(tmp_path / "plain")[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_a_masked_clip_costs_what_its_visible_patches_cost(ratio):
    config = VideoMambaConfig.of_size("tiny", num_hidden_layers=2)
    with torch.device("meta"):
        encoder = VideoMambaModel(config).encoder
    tokens = 8 * 196
    visible = tokens - int(tube_mask(1, 8, (14, 14), ratio).sum())

    def cost(length):
        return count_flops(encoder, torch.empty(1, length, config.hidden_size, device="meta"))

    assert cost(1 + visible) == cost(1 + tokens) * (1 + visible) // (1 + tokens)


def test_masked_tokens_never_enter_a_block(student):
    model = load_model(student)
    seen = []
    for layer in model.videomamba.encoder.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    clips = torch.randn(2, 3, 3, 64, 64)
    mask = tube_mask(2, 3, (4, 4), 0.75)
    first = model(clips, bool_masked_pos=mask).aligned_features
    assert set(seen) == {(2, 1 + 3 * 4, 16)}
    hidden = mask.unflatten(1, (3, 4, 4)).repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, None]
    assert torch.equal(model(clips.masked_fill(hidden, 9.0), bool_masked_pos=mask).aligned_features, first)


def test_the_model_learns_what_the_teacher_tells_about_held_out_clips(student, teacher, tmp_path):
    words = [
        "--max_train_samples",
        32,
        "--num_train_epochs",
        3,
        "--save_strategy",
        "no",
        "--align_last_output",
        "True",
    ]
    pretrain_tiny(student, teacher, tmp_path, *words, *EVALUATED)
    losses = [value for _, value in history(tmp_path)["metrics"]["loss"]]
    assert losses[-1] < losses[0] < 4
    model = load_model(tmp_path)
    assert type(model).__name__ == "VideoMambaForPreTraining" and model.config.align_last_output
    classifier = VideoMambaForVideoClassification.from_pretrained(tmp_path)
    trained = model.videomamba.encoder.layers[-1].mixer.in_proj.weight
    assert torch.equal(classifier.videomamba.encoder.layers[-1].mixer.in_proj.weight, trained)
    assert not torch.equal(load_model(student).videomamba.encoder.layers[-1].mixer.in_proj.weight, trained)


def test_as_released_the_last_block_is_left_as_it_was(student, teacher, tmp_path):
    pretrain_tiny(student, teacher, tmp_path, *ONE_STEP, "--weight_decay", 0.05)
    before = load_file(student / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    idle = {name for name in before if torch.equal(before[name], after[name])}
    mixer = {name for name in before if name.startswith("videomamba.encoder.layers.1.mixer.")}
    assert idle == {"videomamba.norm.weight", "videomamba.encoder.layers.1.norm.weight", *mixer}


def test_a_size_is_drawn_anew_and_a_seed_draws_it_again(tmp_path):
    arguments = ModelArguments(model="tiny", image_size=64, num_frames=3, drop_path_rate=0.4)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model, processor, _ = load_student(arguments, tmp_path, is_resumed=False)
        drawn.append(model.videomamba.encoder.layers[-1].mixer.in_proj.weight)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert (model.config.hidden_size, model.config.num_frames, model.config.drop_path_rate) == (192, 3, 0.4)
    assert (processor.num_frames, processor.crop_size["height"], processor.size["shortest_edge"]) == (3, 64, 64)


def test_classifiers_of_clips_and_of_pictures_are_pretrained_with_new_heads(teacher, tmp_path):
    classifier = save_student(tmp_path / "classifier", VideoMambaForVideoClassification)
    trainer = pretrain_tiny(classifier, teacher, tmp_path / "run", *ONE_STEP)
    assert family_of(trainer.model).task == "pretraining"
    pictures = save_student(tmp_path / "pictures", VideoMambaForImageClassification, num_frames=1)
    trainer = pretrain_tiny(pictures, teacher, tmp_path / "other", *ONE_STEP, "--num_frames", 3)
    assert trainer.model.videomamba.embeddings.temporal_embeddings.shape == (1, 3, 16)


def test_a_checkpoint_is_pretrained_on_clips_of_another_length_and_size(student, tmp_path):
    teacher = save_teacher(tmp_path / "teacher", image_size=16)
    words = ["--num_frames", 5, "--image_size", 32, "--dataset_name", "micro-actions", *ONE_STEP]
    trainer = pretrain_tiny(student, teacher, tmp_path / "run", *words)
    assert trainer.train_dataset[0]["pixel_values_videos"].shape == (5, 3, 32, 32)
    model = load_model(tmp_path / "run")
    assert model.config.num_frames == 5 and model.videomamba.embeddings.temporal_embeddings.shape[1] == 5


def test_the_distance_on_held_out_clips_is_written_scored_and_shown(student, teacher, tmp_path):
    arguments = DistanceArguments(
        model=str(student), teacher=str(teacher), max_samples=3, batch_size=2, output_dir=str(tmp_path / "test")
    )
    task = find_task("pretraining")
    predictions = predict_splits(arguments, task)
    records = read_records(predictions)
    distances = [record["answer"] for record in records]
    assert len(set(distances)) == 3 and all(0 < distance < 4 for distance in distances)
    scored = ScoredRecords(records, Bootstrap(draws=2))
    assert scored.summary()["scores"]["distance"] == pytest.approx(sum(distances) / 3)
    again = predict_splits(DistanceArguments(**{**vars(arguments), "batch_size": 3, "overwrite": True}), task)
    assert [record["answer"] for record in read_records(again)] == pytest.approx(distances, abs=1e-5)
    folder = save_checkpoint(tmp_path / "shown", load_model(student), tiny_processor())
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: feature-extraction" in card and "last block and last norm have not learned" in card


def test_the_preset_is_the_published_recipe_and_what_is_said_wins(capsys):
    model_args, data_args, args = parse_arguments(
        "", ["--preset", "published", "--output_dir", "x", "--flip", "False"]
    )
    assert (model_args.model, model_args.drop_path_rate, model_args.num_frames) == ("middle", 0.4, 8)
    assert (data_args.masking, data_args.mask_ratio, data_args.flip) == ("attention", 0.8, False)
    assert data_args.crop_scales == [1.0, 0.875, 0.75, 0.66]
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 0.05, 0.0)
    assert args.num_train_epochs * args.warmup_steps == 40
    assert args.learning_rate == pytest.approx(1.5e-4 * 32 / 256)
    assert args.learning_rate * args.lr_scheduler_kwargs["min_lr_rate"] == pytest.approx(1e-5 * 32 / 256)
    whole = ["--per_device_train_batch_size", "64", "--gradient_accumulation_steps", "32"]
    _, _, args = parse_arguments("", ["--preset", "published", "--output_dir", "x", *whole])
    assert args.learning_rate == pytest.approx(1.2e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--teacher_cache", "x"], "teacher_cache needs clips that come again"),
        (["--num_views", 0], "num_views must be at least 1 .*, got 0 and True"),
        (["--num_views", 2, "--augment", "False"], "num_views .* come with --augment True, got 2 and False"),
        (["--mask_ratio", 1.0], "mask_ratio must be above 0 and below 1, got 1.0"),
        (["--mask_ratio", 0.01], "must hide at least one of 16 patches of a frame, got 0.01"),
        (["--flip", "True", "--crop_scales", 2.0], "scales must be one or more above 0 and up to 1"),
        (["--num_alignment_layers", 2, "--teacher_interval", 5], "stay within the teacher's 3 layers, got 2 and 5"),
        (["--alignment_size", 512], "alignment_size must be the teacher's, 20, got 512"),
        (["--learns", "adapter"], r"what learns must be of \['embeddings', 'encoder', 'head'\], got"),
        (["--save_only_model", "True"], "save_only_model must be False"),
    ],
)
def test_options_that_are_wrong_or_do_not_go_together_are_refused(student, teacher, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        pretrain_tiny(student, teacher, tmp_path, *ONE_STEP, *words)


def test_a_folder_of_another_masking_is_refused(student, teacher, tmp_path):
    words = ["--max_steps", 1, "--save_strategy", "steps", "--save_steps", 1]
    pretrain_tiny(student, teacher, tmp_path, *words)
    with pytest.raises(ValueError, match="checkpoints of another recipe: mask_ratio must be 0.5, got 0.8"):
        pretrain_tiny(student, teacher, tmp_path, *words, "--mask_ratio", 0.5)


def test_every_parameter_of_a_pretraining_is_of_one_part():
    model = VideoMambaForPreTraining(VideoMambaConfig(hidden_size=16, num_hidden_layers=1, image_size=16))
    family = family_of(model)
    assert family.task == "pretraining"
    assert {family.part_of(name) for name, _ in model.named_parameters()} == {*family.parts}


def test_the_example_pretrains_and_resumes(student, teacher, tmp_path, monkeypatch):
    words = f"{EXAMPLE} --model {student} --teacher {teacher} --output_dir run --use_cpu True --disable_tqdm True"
    words += " --max_train_samples 4 --per_device_train_batch_size 2 --save_strategy steps --save_steps 1"
    monkeypatch.chdir(tmp_path)
    for steps in (1, 2):
        monkeypatch.setattr(sys, "argv", [*words.split(), "--max_steps", str(steps), "--resume_from_checkpoint"])
        if steps == 1:
            sys.argv.pop()
        else:
            sys.argv.append("run/checkpoint-1")
        run_script(EXAMPLE)
    assert (tmp_path / "run" / "checkpoint-2").is_dir() and (tmp_path / "run" / "model.safetensors").exists()
