"""A VideoMamba learns classes of drawn clips, resumes exactly, and starts from bases of other shapes."""

import json
import shutil
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file

from drawn_clips import NAMES, SIDE, Clips, save_base, write_dataset
from hmba_hf.data.micro_world.actions import ACTION_NAMES
from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.evaluation.records import read_records
from hmba_hf.families import load_model
from hmba_hf.hub import save_checkpoint
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
)
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor, image_processor_of
from hmba_hf.tasks.classification import run as classification_run
from hmba_hf.tasks.classification.arguments import (
    PRESETS,
    DataArguments,
    FinetuningArguments,
    ModelArguments,
    check_options,
    parse_arguments,
    scale_learning_rate,
)
from hmba_hf.tasks.classification.run import finetune
from tiny_runs import run_example

CHANGED = {
    "num_draws": 2,
    "rand_augment": 7.0,
    "erasing": 0.5,
    "mixup": 0.8,
    "cutmix": 1.0,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def clips(monkeypatch):
    """Let all datasets be drawn clips."""

    def load(name, split, size, **options):
        return Clips(size or 8)

    monkeypatch.setattr(classification_run, "load_samples", load)


def arguments(base, folder, data=None, **options):
    model = {name: options.pop(name) for name in list(options) if name in ModelArguments.__dataclass_fields__}
    given = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 3,
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return ModelArguments(model=str(base), **model), DataArguments(**(data or {})), FinetuningArguments(**given)


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(base, clips, tmp_path, workers):
    options = {"label_smoothing_factor": 0.1, "dataloader_num_workers": workers, "layer_decay": 0.5}
    finetune(*arguments(base, tmp_path / "whole", CHANGED, **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    finetune(*arguments(base, tmp_path / "again", CHANGED, **options))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "again"))
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "whole" / "checkpoint-2"))


def test_steps_in_parts_equal_whole_steps(base, clips, tmp_path):
    kept = {"min_area": 1.0, "flip": 0.0}
    whole = arguments(base, tmp_path / "whole", kept, drop_path_rate=0.0, max_steps=2)
    finetune(*whole)
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "drop_path_rate": 0.0}
    finetune(*arguments(base, tmp_path / "parts", kept, max_steps=2, **parts))
    first = weights(tmp_path / "whole")
    second = weights(tmp_path / "parts")
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_a_run_evaluates_and_names_the_classes_of_its_data(base, clips, tmp_path):
    trainer = finetune(*arguments(base, tmp_path, eval_strategy="steps", eval_steps=2))
    logged = [entry for entry in trainer.state.log_history if "eval_top_1" in entry]
    assert len(logged) == 2 and logged[-1]["eval_top_5"] == 1.0 and 0 <= logged[-1]["eval_top_1"] <= 1
    model = load_model(tmp_path)
    assert [model.config.id2label[number] for number in range(3)] == NAMES
    assert model.config.architectures == ["VideoMambaForVideoClassification"]


def test_weight_decay_spares_vectors_tables_and_the_class_token(base, clips, tmp_path):
    trainer = finetune(*arguments(base, tmp_path, max_steps=1, learns=["embeddings", "encoder", "head"]))
    decayed = trainer.get_decay_parameter_names(trainer.model)
    endings = {name.rpartition(".")[2] for name in decayed}
    assert endings == {"weight", "A_log"} and "classifier.weight" in decayed
    assert "videomamba.embeddings.patch_embeddings.projection.weight" in decayed
    assert not any("norm" in name for name in decayed)


def test_layer_decay_and_decay_of_weights_part_the_optimizer(base, clips, tmp_path):
    options = {"layer_decay": 0.5, "layer_decay_kind": "blocks", "weight_decay": 0.1, "lr_scheduler_type": "constant"}
    trainer = finetune(*arguments(base, tmp_path, max_steps=1, **options))
    found = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    model = trainer.model
    assert found[id(model.classifier.weight)] == (1e-3, 0.1)
    first, second = model.videomamba.encoder.layers
    assert found[id(second.mixer.in_proj.weight)] == (0.5e-3, 0.1)
    assert found[id(first.norm.weight)] == (0.25e-3, 0.0)
    assert found[id(model.videomamba.embeddings.position_embeddings)] == (0.125e-3, 0.0)


def test_a_teacher_is_heard_in_training_and_its_head_is_dropped(base, clips, tmp_path):
    teacher = save_base(tmp_path / "teacher", hidden_size=8)
    options = {"teacher": str(teacher), "eval_strategy": "steps", "eval_steps": 4}
    trainer = finetune(*arguments(base, tmp_path / "run", CHANGED, **options))
    assert any("eval_top_1" in entry for entry in trainer.state.log_history)
    assert trainer.teacher.config.hidden_size == 8
    assert "distillation_head.projection.weight" in weights(tmp_path / "run" / "checkpoint-4")
    held = weights(tmp_path / "run")
    assert not any("distillation" in name for name in held)
    assert load_model(tmp_path / "run").config.distillation_size is None
    batch = {"pixel_values_videos": torch.randn(2, 2, 3, SIDE, SIDE), "labels": torch.tensor([0, 1])}
    mixed = trainer.mix(batch)
    wanted = trainer.teacher(mixed["pixel_values_videos"]).last_hidden_state
    assert torch.equal(mixed["teacher_features"], wanted)
    finetune(*arguments(base, tmp_path / "alone", CHANGED))
    assert not equal(held, weights(tmp_path / "alone"))


def test_other_classes_get_a_new_head_and_the_same_ones_keep_theirs(base, clips, tmp_path):
    other = save_base(tmp_path / "other", names=["a", "b", "c"])
    more = save_base(tmp_path / "more", names=["a", "b", "c", "d"])
    options = {"max_steps": 1, "learning_rate": 0.0}
    for folder in (other, more):
        finetune(*arguments(folder, tmp_path / f"from {folder.name}", **options))
        held = weights(tmp_path / f"from {folder.name}")["classifier.weight"]
        assert held.shape == (3, 16) and not torch.equal(held, weights(folder)["classifier.weight"][:3])
    finetune(*arguments(base, tmp_path / "same", **options))
    assert equal(weights(tmp_path / "same"), weights(base))


def test_a_base_of_masked_pre_training_on_other_clips_is_fine(clips, tmp_path):
    base = save_base(tmp_path / "base", VideoMambaForPreTraining, alignment_size=8)
    options = {"num_frames": 4, "image_size": 32, "max_steps": 1, "learning_rate": 0.0}
    finetune(*arguments(base, tmp_path / "run", **options))
    held = weights(tmp_path / "run")
    assert held["videomamba.embeddings.temporal_embeddings"].shape == (1, 4, 16)
    assert held["videomamba.embeddings.position_embeddings"].shape == (1, 17, 16)
    assert torch.equal(held["videomamba.norm.weight"], weights(base)["videomamba.norm.weight"])
    assert load_model(tmp_path / "run").config.image_size == 32


def save_pictures(folder):
    """Save a model of pictures as the converter does, with transformers' image processor."""
    save_base(folder, VideoMambaForImageClassification, num_frames=1)
    (folder / "video_preprocessor_config.json").unlink()
    image_processor_of(SIDE).save_pretrained(folder)
    return folder


def test_pictures_are_learned_from_and_classified_as_clips_of_one_frame(clips, tmp_path):
    base = save_pictures(tmp_path / "base")
    finetune(*arguments(base, tmp_path / "run", max_steps=1))
    assert VideoMambaVideoProcessor.from_pretrained(tmp_path / "run").num_frames == 1
    write_dataset(tmp_path / "data", Clips(3), kind="png")
    for folder in (base, tmp_path / "run"):
        words = ["--model", folder, "--dataset_name", tmp_path / "data", "--device_map", "cpu", "--on_error", "skip"]
        run_example("predict.py", *words, "--output_dir", folder / "test")
        assert len(read_records(folder / "test" / "predictions.jsonl")[0]["answer"]) == 3
    with pytest.raises(ValueError, match="views of a picture must be 1, got 3"):
        run_example("predict.py", *words[:1], base, *words[2:], "--num_spatial_views", 3)


def test_a_base_of_pictures_gets_a_table_of_times_of_zeros(clips, tmp_path):
    base = save_pictures(tmp_path / "base")
    finetune(*arguments(base, tmp_path / "run", num_frames=2, max_steps=1, learning_rate=0.0))
    assert isinstance(load_model(tmp_path / "run"), VideoMambaForVideoClassification)
    processor = VideoMambaVideoProcessor.from_pretrained(tmp_path / "run")
    assert processor.num_frames == 2 and processor.crop_size["height"] == SIDE
    assert weights(tmp_path / "run")["videomamba.embeddings.temporal_embeddings"].count_nonzero() == 0


def test_a_broken_clip_stops_a_run_or_is_left_out(base, tmp_path, monkeypatch):
    def load(name, split, size, **options):
        clips = Clips(8)
        clips[3] = replace(clips[3], video=b"no video")
        return clips

    monkeypatch.setattr(classification_run, "load_samples", load)
    with pytest.raises(ValueError, match=r"clip 3.*--on_error skip leaves such samples out"):
        finetune(*arguments(base, tmp_path / "stop"))
    finetune(*arguments(base, tmp_path / "skip", {"on_error": "skip"}))
    assert "clip 3" in (tmp_path / "skip" / "history.json").read_text()


def test_clips_are_mirrored_unless_a_class_names_a_direction_or_the_command_says():
    assert DataArguments().augmentation(["run", "sit"]).flip == 0.5
    assert DataArguments().augmentation(["run", "turn left"]).flip == 0.0
    assert DataArguments(flip=0.3).augmentation(["run", "turn left"]).flip == 0.3


def test_a_preset_sets_the_recipe_and_the_learning_rate_follows_the_batch(tmp_path):
    words = ["--model", "m", "--preset", "ssv2-tiny", "--output_dir", str(tmp_path), "--use_cpu", "True"]
    model_args, data_args, args = parse_arguments("", words)
    assert (data_args.flip, data_args.rand_augment, data_args.rand_augment_operations) == (0.0, 5.0, 2)
    assert (model_args.layer_decay, model_args.layer_decay_kind, model_args.drop_path_rate) == (0.75, "released", 0.1)
    assert (args.num_train_epochs, args.weight_decay, args.warmup_steps) == (35, 0.1, 5 / 35)
    scale_learning_rate(args, data_args.num_draws)
    assert args.learning_rate == pytest.approx(4e-4 * 8 * 2 / 256)
    assert args.lr_scheduler_kwargs == pytest.approx({"min_lr_rate": 1e-6 / 4e-4, "warmup_lr_rate": 1e-6 / 4e-4})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_of_options_that_are_there(name, tmp_path):
    words = ["--model", "m", "--preset", name, "--output_dir", str(tmp_path), "--use_cpu", "True"]
    parsed = parse_arguments("", words)
    check_options(*parsed)
    for option, value in PRESETS[name].items():
        assert any(getattr(part, option, None) == value for part in parsed), option


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"num_draws": 0}, {}, "num_draws must be at least 1"),
        ({"rand_augment": -1.0}, {}, "rand_augment must be at least 0"),
        ({"min_area": 2.0}, {}, "min_area must be above 0"),
        ({"mixup": 0.8}, {"per_device_train_batch_size": 1}, "mixup and cutmix must have at least 2 clips"),
        ({}, {"layer_decay": 2.0}, "layer_decay must be above 0 and at most 1"),
        ({"motion": "order"}, {}, "motion must be absent"),
        ({"dataset_name": ["a"], "world_seed": 3}, {}, "world_seed must be 0 where no clip is drawn, as in 'a'"),
        ({}, {"learns": ["adapter"]}, "what learns must be of"),
        ({}, {"teacher_revision": "main"}, "teacher_revision must come with a teacher, got 'main' alone"),
        ({}, {"class_names": ["jump", "jump"]}, "class_names must name each class once"),
        ({}, {"num_frames": 3, "image_size": 20}, "image_size must be a multiple of patch_size=8, got 20"),
    ],
)
def test_options_that_cannot_hold_are_refused(base, clips, tmp_path, data, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(*arguments(base, tmp_path, data, **options))


def test_files_are_classified_scored_and_shown_on_the_card_by_the_same_programs(base, tmp_path, capsys):
    write_dataset(tmp_path / "data", Clips(5), broken="clip 4")
    words = ["--model", base, "--dataset_name", tmp_path / "data", "--batch_size", 2, "--device_map", "cpu"]
    words += ["--num_temporal_views", 2, "--num_spatial_views", 3, "--output_dir", tmp_path / "test"]
    with pytest.raises(ValueError, match=r"\(clip 4\) cannot be read, and on_error is not 'skip'"):
        run_example("predict.py", *words)
    words += ["--on_error", "skip"]
    run_example("predict.py", *words)
    records = read_records(tmp_path / "test" / "predictions.jsonl")
    assert [record["reference"] for record in records] == [0, 1, 2, 0, 1]
    assert [bool(record["error"]) for record in records] == [False] * 4 + [True]
    assert sum(item["score"] for item in records[0]["answer"]) == pytest.approx(1)
    run_example("evaluate.py", *words, "--draws", 10)
    right = [record["answer"][0]["class"] == record["reference"] for record in records[:4]]
    assert f"top_1  {sum(right) / 4:.3f}" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert set(metrics["confusion"]) == set(NAMES) and metrics["samples"]["with_label"] == 4
    model = load_model(base)
    folder = save_checkpoint(tmp_path / "shown", model, None, results=[tmp_path / "test"])
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: video-classification" in card and "of 4 predictions, 1 clips skipped, 2 x 3 views" in card
    assert f"| test | top-1 accuracy | {sum(right) / 4:.4f} |" in card
    assert "no streaming is claimed" in card


def test_drawn_actions_are_learned_from_and_classified_by_their_name(base, tmp_path):
    run = arguments(base, tmp_path / "run", {"max_train_samples": 4, "flip": 0.0}, max_steps=1, num_frames=4)
    finetune(*run)
    words = ["--model", tmp_path / "run", "--max_samples", 2, "--device_map", "cpu", "--output_dir", tmp_path / "test"]
    run_example("evaluate.py", *words, "--draws", 2)
    (first, _) = read_records(tmp_path / "test" / "predictions.jsonl")
    assert first["reference_name"] in ACTION_NAMES and first["answer"][0]["label"] in ACTION_NAMES
    recipe = json.loads((tmp_path / "test" / "recipe.json").read_text())
    assert recipe["world_seed"] == 0 and recipe["num_spatial_views"] == 1


def test_a_tokenizer_of_captions_is_refused_for_classes(base, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_example("evaluate.py", "--model", base, "--output_dir", tmp_path / "test", "--tokenizer", "words")
    assert not (tmp_path / "test").exists()
    assert "--tokenizer must be absent where no caption is scored, got 'words'" in capsys.readouterr().err


def test_clips_of_another_task_end_a_run_under_either_policy(base, tmp_path, monkeypatch):
    monkeypatch.setattr(classification_run, "load_samples", lambda *_, **__: MicroWorld(size=4))
    with pytest.raises(TypeError, match="must be an ActionSample, got a Sample of another task"):
        finetune(*arguments(base, tmp_path, {"on_error": "skip"}))


def test_datasets_of_other_classes_than_the_first_are_refused(base, tmp_path, monkeypatch):
    def load(name, split, size, **options):
        return Clips(6, NAMES if name == "a" else ["left", "up", "down"])

    monkeypatch.setattr(classification_run, "load_samples", load)
    with pytest.raises(ValueError, match="class 1 of the model must be 'up', as in the dataset, got 'right'"):
        finetune(*arguments(base, tmp_path, {"dataset_name": ["a", "b"]}))


@pytest.mark.parametrize(
    "task",
    ["classification.arguments", "classification.question_arguments", "pretraining.arguments", "retrieval.arguments"],
)
def test_options_that_no_task_of_clips_has_are_refused_in_a_sentence(task):
    parse = import_module(f"hmba_hf.tasks.{task}").parse_arguments
    with pytest.raises(ValueError, match="streaming must be absent, .* got --streaming True"):
        parse("", ["--model", "base", "--streaming", "True"])
    with pytest.raises(ValueError, match="options must be among those of --help, got --num_fraems 3"):
        parse("", ["--model", "base", "--num_fraems", "3"])
