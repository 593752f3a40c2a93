import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from hmba_hf.data.micro_world.parquet import write_bddx, write_drama
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.messages import is_raised_here
from hmba_hf.tasks.answering.arguments import PRESETS, DataArguments, parse_arguments
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.run import first_held_out
from hmba_hf.training.arguments import CHECKPOINTING, recipe
from hmba_hf.training.run import draw_example
from tiny_bases import FAST, save_base, tune
from tiny_models import tiny_model

WORLD = MicroWorldConfig(frame_size=32)
KILLER = Path(__file__).with_name("killed_runs.py")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder in the DRAMA schema and one in the BDD-X schema."""
    drama, bddx = tmp_path_factory.mktemp("drama"), tmp_path_factory.mktemp("bddx")
    write_drama(drama, WORLD, {"train": 8, "validation": 3})
    write_bddx(bddx, WORLD, {"train": 4})
    return [drama, bddx]


def history(folder):
    return json.loads((folder / "history.json").read_text())


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def assert_same_result(folder, wanted):
    """The same loss at each step and the same weights, to the bit."""
    assert (
        history(folder)["loss"] == history(wanted)["loss"] and history(folder)["metrics"] == history(wanted)["metrics"]
    )
    assert_same_weights(folder, wanted)


def assert_same_weights(folder, wanted):
    found, expected = weights(folder), weights(wanted)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def summed_losses(folder):
    """The sum of the losses of all steps up to each one that is logged."""
    total, last, sums = 0.0, 0, {}
    for step, mean in history(folder)["loss"]:
        total += mean * (step - last)
        last = step
        sums[step] = total
    return sums


def run_under_kills(folder, script, *words):
    """Let SIGKILL or SIGTERM come ten times to a command; return the folders of undisturbed and disturbed runs."""
    folder.mkdir()
    command = [sys.executable, KILLER, 10, 0, folder, script, *words]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert len(done.stdout.split()) == 10
    return folder / "undisturbed", [path for path in folder.glob("killed-*") if path.is_dir()]


@pytest.mark.long
def test_training_that_is_killed_ten_times_ends_as_if_it_had_not_been(stored_model, tmp_path):
    words = ["--model", stored_model, "--learns", "adapter", "projector", "lora", "--lora_dropout", 0.1]
    words += [*FAST, "--logging_steps", 2, "--max_train_samples", 14, "--per_device_train_batch_size", 2]
    words += ["--max_steps", 12, "--save_steps", 3, "--gradient_accumulation_steps", 2, "--dataloader_num_workers", 1]
    words += ["--eval_strategy", "steps", "--eval_steps", 3, "--max_eval_samples", 2, "--max_new_tokens", 2]
    words += ["--load_best_model_at_end", "True", "--metric_for_best_model", "loss", "--enable_jit_checkpoint", "True"]
    undisturbed, killed = run_under_kills(tmp_path / "runs", "finetune.py", *words)
    assert [step for step, _ in history(undisturbed)["loss"]] == [1, 2, 3, 4, 6, 8, 9, 10, 12]
    assert [step for step, _ in history(undisturbed)["metrics"]["loss"]] == [3, 6, 9, 12]
    wanted = summed_losses(undisturbed)
    for folder in killed:
        found = summed_losses(folder)  # at more steps: a run that SIGTERM stops logs its last one
        assert [found[step] for step in wanted] == pytest.approx(list(wanted.values()), rel=1e-6)
        assert history(folder)["metrics"] == history(undisturbed)["metrics"]
        assert_same_weights(folder, undisturbed)


@pytest.mark.long
def test_caching_that_is_killed_ten_times_ends_as_if_it_had_not_been(base, tmp_path):
    words = ["--model", base, "--use_cpu", "--max_train_samples", 120, "--block_size", 8]
    undisturbed, killed = run_under_kills(tmp_path / "runs", "cache_features.py", *words)

    def contents(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}

    files = contents(undisturbed)
    assert len(files) == 15 + len(("index.json", "key.json"))
    for folder in killed:
        assert contents(folder) == files


def test_the_same_command_goes_on_and_passes_over_what_is_not_whole(base, tmp_path, capsys):
    words = ["--adapter", "mamba", "--max_steps", 6, "--save_steps", 2, "--save_total_limit", 9]
    tune(base, tmp_path / "whole", *words)
    assert "a new run" in capsys.readouterr().out
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "checkpoint-6" / "seal.json").unlink()  # half written
    (tmp_path / "again" / "checkpoint-4" / "optimizer.pt").unlink()  # half deleted
    tune(base, tmp_path / "again", *words)
    assert f"resuming from {tmp_path / 'again' / 'checkpoint-2'}" in capsys.readouterr().out
    assert_same_result(tmp_path / "again", tmp_path / "whole")
    trainer = tune(base, tmp_path / "again", *words)
    assert trainer.state.global_step == 6, "a run that is over is not gone on with"
    assert_same_result(tmp_path / "again", tmp_path / "whole")


def test_a_run_that_ends_within_an_epoch_is_not_gone_on_with(base, tmp_path):
    words = ["--max_steps", 3, "--save_steps", 2]  # of 5 steps in an epoch
    tune(base, tmp_path / "out", *words)
    wanted = weights(tmp_path / "out")
    assert tune(base, tmp_path / "out", *words).state.global_step == 3
    assert all(torch.equal(weight, wanted[name]) for name, weight in weights(tmp_path / "out").items())


QUICK = ["--max_eval_samples", 2, "--max_new_tokens", 2]


def test_a_run_that_is_killed_in_an_evaluation_makes_up_for_it(base, tmp_path, monkeypatch):
    words = ["--num_train_epochs", 2, "--save_steps", 5, "--eval_strategy", "epoch", *QUICK]  # of 5 steps in an epoch
    words += ["--adapter", "mamba", "--learns", "adapter", "lora", "--lora_dropout", 0.1]
    tune(base, tmp_path / "whole", *words)
    assert [step for step, _ in history(tmp_path / "whole")["metrics"]["loss"]] == [5, 10]
    for killed_in in (1, 2):
        folder, calls = tmp_path / str(killed_in), []

        def kill(*args, calls=calls, killed_in=killed_in):
            calls.append(args)
            if len(calls) == killed_in:
                raise KeyboardInterrupt
            return score(*args)

        from hmba_hf.tasks.answering.run import answer_metrics as score

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("hmba_hf.tasks.answering.run.answer_metrics", kill)
            tune(base, folder, *words)
        tune(base, folder, *words)
        assert_same_result(folder, tmp_path / "whole")


def test_a_run_keeps_its_best_model_when_it_is_over_and_where_it_is_moved_to(stored_model, tmp_path, monkeypatch):
    scores = iter([0.8, 0.2])
    monkeypatch.setattr("hmba_hf.tasks.answering.run.answer_metrics", lambda *args: {"mean_iou": next(scores)})
    words = ["--max_steps", 4, "--save_steps", 2, "--eval_strategy", "steps", "--eval_steps", 2, *QUICK]
    words += ["--load_best_model_at_end", "True", "--metric_for_best_model", "mean_iou"]
    tune(stored_model, tmp_path / "here", *words)
    best = weights(tmp_path / "here" / "checkpoint-2")
    (tmp_path / "here").rename(tmp_path / "there")
    for _ in range(2):  # without another evaluation, which would find no score
        assert tune(stored_model, tmp_path / "there", *words).state.global_step == 4
        assert all(torch.equal(tensor, best[name]) for name, tensor in weights(tmp_path / "there").items())


def test_a_metric_that_no_evaluation_gives_is_refused_with_those_that_there_are(base, tmp_path):
    words = ["--max_steps", 1, "--save_steps", 1, "--eval_strategy", "steps", "--eval_steps", 1, *QUICK]
    words += [
        "--load_best_model_at_end",
        "True",
        "--metric_for_best_model",
        "nosuch",
        "--prediction_loss_only",
        "True",
    ]
    with pytest.raises(
        ValueError, match=r"metric_for_best_model must be a metric .*'eval_nosuch'.*'eval_loss'"
    ) as end:
        tune(base, tmp_path, *words)
    assert is_raised_here(end.value)


def test_a_run_that_a_bad_sample_has_stopped_goes_on_without_it(base, tmp_path, monkeypatch):
    encode, bad = SampleCollator.encode, []

    def damaged(self, sample):
        bad.append(sample.id)
        if len(bad) > 6 and sample.id == bad[0]:
            raise ValueError("damaged")
        return encode(self, sample)

    monkeypatch.setattr(SampleCollator, "encode", damaged)
    words = ["--max_steps", 10, "--save_steps", 2]
    with pytest.raises(ValueError, match="damaged .--on_error skip leaves such samples out"):
        tune(base, tmp_path / "out", *words)
    assert tune(base, tmp_path / "out", *words, "--on_error", "skip").state.global_step == 10
    assert history(tmp_path / "out")["bad_samples"] == {f"sample {bad[0]}": "damaged"}
    assert len(history(tmp_path / "out")["loss"]) == 10


def test_old_checkpoints_go_when_the_new_one_is_whole(base, tmp_path, monkeypatch):
    seen = []

    def note(folder, limit, *args, **kwargs):
        seen.append(sorted(path.parent.name for path in Path(folder).glob("checkpoint-*/seal.json")))
        rotate(folder, limit, *args, **kwargs)

    import hmba_hf.training.trainer as trainer

    rotate = trainer.rotate_checkpoints
    monkeypatch.setattr(trainer, "rotate_checkpoints", note)
    tune(base, tmp_path / "out", "--max_steps", 3, "--save_steps", 1, "--save_total_limit", 1)
    assert seen == [["checkpoint-1"], ["checkpoint-1", "checkpoint-2"], ["checkpoint-2", "checkpoint-3"]]
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-3"]


def test_a_folder_of_another_recipe_is_refused(base, tmp_path):
    tune(base, tmp_path / "out", "--max_steps", 2)
    tune(base, tmp_path / "out", "--max_steps", 2, "--logging_steps", 2, "--eval_strategy", "no")
    with pytest.raises(ValueError, match="another recipe: max_steps must be 4, got 2; seed must be 7"):
        tune(base, tmp_path / "out", "--max_steps", 4, "--seed", 7)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    trainer = tune(base, tmp_path / "out", "--max_steps", 4, "--resume_from_checkpoint", checkpoint)
    assert trainer.state.global_step == 4 and len(history(tmp_path / "out")["loss"]) == 4


def full_disk_at(step, monkeypatch, error):
    """Let the weights of one checkpoint be cut off."""
    save = safetensors.torch.save_file

    def save_or_fail(tensors, path, *args, **kwargs):
        if f"checkpoint-{step}/" in str(path):
            Path(path).write_bytes(b"half")
            raise error
        return save(tensors, path, *args, **kwargs)

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", save_or_fail)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), safetensors.SafetensorError("I/O error 28")]
)
def test_a_full_disk_is_named_and_the_last_whole_checkpoint_stays(base, tmp_path, monkeypatch, error):
    words = ["--max_steps", 4, "--save_steps", 2, "--save_total_limit", 1]
    tune(base, tmp_path / "whole", *words)
    with monkeypatch.context() as patch:
        full_disk_at(4, patch, error)
        message = (
            r"checkpoint-4 could not be written, .* MiB are free: .*28.*checkpoint-2 is whole: make room and start"
        )
        with pytest.raises(OSError, match=message):
            tune(base, tmp_path / "out", *words)
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    tune(base, tmp_path / "out", *words)
    assert_same_result(tmp_path / "out", tmp_path / "whole")


def test_times_are_told_to_a_trained_model_as_it_has_learned_them(base, tmp_path):
    tune(base, tmp_path / "out", "--max_steps", 1, "--time_format", " at {seconds} s. ")
    for folder in (tmp_path / "out", tmp_path / "out" / "checkpoint-1"):
        assert AutoProcessor.from_pretrained(folder).time_format == " at {seconds} s. "
    for words, wanted in (([], " at {seconds} s. "), (["--time_format", ""], None)):
        trainer = tune(tmp_path / "out", tmp_path / f"next {len(words)}", "--max_steps", 1, *words)
        assert trainer.processing_class.time_format == wanted


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_trains_a_base_whose_adapter_has_never_learned(preset, tmp_path, capsys):
    base = save_base(tmp_path / "base", adapter="mamba")
    trainer = tune(base, tmp_path / "out", "--preset", preset, "--max_steps", 1, "--dataloader_num_workers", 0)
    frames = PRESETS[preset]["num_frames"]
    assert trainer.model.config.num_frames == frames
    learned = dict(trainer.model.model.temporal_adapter.named_parameters())
    assert next(x for name, x in learned.items() if name.endswith("temporal_position_embedding")).shape[0] == frames
    assert ("is untrained, and a new one replaces it" in capsys.readouterr().out) == (preset == "bddx")


def test_a_base_without_an_adapter_is_told_where_one_should_learn(base, tmp_path):
    with pytest.warns(UserWarning, match="the base has no adapter, and none learns: name one"):
        tune(base, tmp_path / "out", "--max_steps", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learns", "lora", "language_model"], r"must learn in one way, got \['lora', 'language_model'\]"),
        (["--learns", "lora", "--lora_rank", 0], "the rank of low-rank updates must be at least 1, got 0"),
        (["--learns", "lora", "--lora_alpha", "nan"], "alpha of low-rank updates must be finite and above 0, got nan"),
        (["--learns", "lora", "--lora_dropout", 1], "dropout of low-rank updates must be from 0 to below 1, got 1.0"),
        (["--learning_rate", -1], "learning_rate must be finite, zero or more, got -1.0"),
        (["--adapter_learning_rate", "inf"], "adapter_learning_rate must be finite, zero or more, got inf"),
        (["--per_device_train_batch_size", 0], "per_device_train_batch_size must be at least 1, got 0"),
        (["--seed", -1], "seed must be from 0 to 4294967295, got -1"),
        (["--gradient_accumulation_steps", 0], "gradient_accumulation_steps must be at least 1, got 0"),
        (["--lr_scheduler_type", "steep"], "go together, each in its range: steep is not a valid SchedulerType"),
        (["--learns", "lora", "--lora_targets", "brain"], r"must be linear layers .*'q_proj'.*, got \['brain'\]"),
        (["--streaming", "True"], "a streamed dataset has no length: --streaming needs --max_steps"),
        (["--streaming", "True", "--max_steps", 1, "--feature_cache", "x"], "need datasets that are held, not --str"),
        (["--learns", "vision_tower", "--feature_cache", "x"], "vision tower that learns cannot be cached"),
        (["--dataset_weights", "1", "2"], r"must be one positive number for each of 1 datasets, got \[1.0, 2.0\]"),
        (["--save_only_model", "True"], "save_only_model must be False, got True"),
        (["--time_format", "at 12.4 s"], "time_format must be a text with one {seconds}, or None, got 'at 12.4 s'"),
        (["--resume_from_checkpoint", "True"], "must be a folder, got True: the same command resumes by itself"),
        (["--feature_cache", "nowhere"], "a cache of features must be whole, got nowhere"),
        (["--eval_strategy", "epoch", "--eval_split", "dev"], "split must be of .* got 'dev'"),
        (["--max_length", 5], "must have at most max_length=5 tokens, got .*--on_error skip"),
        (["--max_length", 5, "--on_error", "skip"], "at least one sample must be readable, got none"),
    ],
)
def test_options_that_are_wrong_or_do_not_go_together_are_refused(base, tmp_path, words, message):
    with pytest.raises(ValueError, match=message):
        tune(base, tmp_path / "out", *words)


def test_training_on_cached_features_has_equal_losses_and_runs_no_tower(base, datasets, tmp_path, monkeypatch):
    cache = [sys.executable, KILLER.parents[1] / "examples" / "cache_features.py", "--use_cpu"]
    cache += ["--model", base, "--dataset_name", *datasets, "--output_dir", tmp_path / "cache"]
    done = subprocess.run([*map(str, cache)], capture_output=True, text=True)
    assert done.returncode == 0 and "4 samples: 4 clips made, 12 in" in done.stdout, done.stderr
    words = ["--adapter", "mamba", "--dataset_name", *datasets, "--dataset_weights", 2, 1, "--max_steps", 6]
    tune(base, tmp_path / "plain", *words)
    forward = "transformers.models.clip.modeling_clip.CLIPVisionModel.forward"
    monkeypatch.setattr(forward, lambda *args, **kwargs: pytest.fail("the tower must not be run"))
    tune(base, tmp_path / "cached", *words, "--feature_cache", tmp_path / "cache")
    plain, cached = (torch.tensor(history(tmp_path / name)["loss"]) for name in ("plain", "cached"))
    torch.testing.assert_close(cached, plain, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="stale .*dtype must be 'bfloat16', got 'float32'"):
        tune(base, tmp_path / "half", *words, "--feature_cache", tmp_path / "cache", "--bf16", "True")
    with pytest.raises(ValueError, match="stale .*num_frames must be '4', got '5'"):
        tune(base, tmp_path / "other", *words, "--feature_cache", tmp_path / "cache", "--num_frames", 4)


def test_a_stream_is_learned_from_again_and_again_and_resumed_exactly(base, datasets, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)
    words = ["--dataset_name", *datasets, "--streaming", "True", "--save_steps", 4, "--save_total_limit", 9]
    words += ["--max_steps", 8]  # more than the 12 clips give in a pass
    tune(base, tmp_path / "whole", *words)
    assert len(history(tmp_path / "whole")["loss"]) == 8
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-8")
    tune(base, tmp_path / "again", *words)
    assert_same_result(tmp_path / "again", tmp_path / "whole")


def test_bad_samples_are_left_out_counted_and_named_at_the_end(base, tmp_path, capsys):
    lengths = {sample.id: len(sample.answer) for sample in MicroWorld(WORLD, "train", 10)}
    # One token for each character: the longest answers are too long.
    processor = AutoProcessor.from_pretrained(base)
    encoded = {s.id: len(SampleCollator(processor).encode(s)["labels"]) for s in MicroWorld(WORLD, "train", 10)}
    most = sorted(encoded.values())[6]
    tune(base, tmp_path / "out", "--num_train_epochs", 2, "--max_length", most, "--on_error", "skip")
    bad = {f"sample {name}" for name, length in encoded.items() if length > most}
    assert bad and history(tmp_path / "out")["bad_samples"].keys() == bad and len(lengths) == 10
    assert f"{len(bad)} samples could not be read and were left out" in capsys.readouterr().out
    assert len(history(tmp_path / "out")["loss"]) == 10, "as many steps of as many samples as without bad ones"


def test_the_best_model_is_kept_by_what_it_answers(stored_model, tmp_path, monkeypatch):
    scores = iter([0.2, 0.8, 0.4])
    monkeypatch.setattr("hmba_hf.tasks.answering.run.answer_metrics", lambda *args: {"mean_iou": next(scores)})
    words = [
        "--max_steps",
        6,
        "--eval_strategy",
        "steps",
        "--eval_steps",
        2,
        "--save_steps",
        2,
        "--max_eval_samples",
        3,
    ]
    words += ["--load_best_model_at_end", "True", "--metric_for_best_model", "mean_iou", "--max_new_tokens", 2]
    tune(stored_model, tmp_path / "out", *words, "--save_total_limit", 9)
    assert history(tmp_path / "out")["metrics"]["mean_iou"] == [[2, 0.2], [4, 0.8], [6, 0.4]]
    assert len(history(tmp_path / "out")["metrics"]["loss"]) == 3
    best, kept = weights(tmp_path / "out" / "checkpoint-4"), weights(tmp_path / "out")
    assert all(torch.equal(kept[name], best[name]) for name in best)
    assert not torch.equal(best["lm_head.weight"], weights(tmp_path / "out" / "checkpoint-6")["lm_head.weight"])
    for name in ("loss", "metrics"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.width > 100


def test_boxes_and_captions_are_scored_while_a_model_learns(stored_model, datasets, tmp_path):
    words = ["--dataset_name", *datasets, "--max_steps", 1, "--eval_strategy", "steps", "--eval_split", "train"]
    tune(stored_model, tmp_path / "out", *words, "--max_new_tokens", 3)
    metrics = history(tmp_path / "out")["metrics"]
    assert {"loss", "mean_iou", "unparsed", "cider", "action_bleu_4", "justification_rouge_l"} <= metrics.keys()
    assert metrics["unparsed"] == [[1, 1.0]]


def test_an_evaluation_answers_each_sample_once(stored_model, tmp_path, monkeypatch):
    seen = []

    def note(answers, samples):
        seen.append([(sample.id, answer, sample.frames) for sample, answer in zip(samples, answers, strict=True)])
        return {}

    monkeypatch.setattr("hmba_hf.tasks.answering.run.answer_metrics", note)
    words = ["--max_steps", 1, "--eval_strategy", "steps", "--max_eval_samples", 5, "--per_device_eval_batch_size", 2]
    tune(stored_model, tmp_path / "out", *words, "--max_new_tokens", 2)
    world = MicroWorld(WORLD, "validation", 5)
    assert [name for name, _, _ in seen[0]] == [sample.id for sample in world]
    assert all(answer and frames is None for _, answer, frames in seen[0])


@pytest.mark.parametrize("option", ["--bf16", f"--{CHECKPOINTING}"])
def test_cheaper_arithmetic_and_memory_give_nearly_the_same_losses(stored_model, tmp_path, option):
    losses = []
    for value in ("False", "True"):
        trainer = tune(stored_model, tmp_path / value, "--max_steps", 4, option, value)
        losses.append(torch.tensor(history(tmp_path / value)["loss"]))
        checkpointed = {
            type(m).__name__ for m in trainer.model.modules() if getattr(m, "gradient_checkpointing", False)
        }
        is_wanted = (option, value) == (f"--{CHECKPOINTING}", "True")
        assert checkpointed >= {"LlamaDecoderLayer", "MambaMixer"} if is_wanted else not checkpointed
    torch.testing.assert_close(losses[1], losses[0], rtol=0, atol=0.05 if option == "--bf16" else 1e-6)
    assert torch.equal(losses[0], losses[1]) == (option != "--bf16")


@pytest.mark.parametrize(("name", "frames"), [("drama", 5), ("bddx", 8)])
def test_a_preset_is_the_published_recipe_and_what_is_said_wins(name, frames, capsys):
    words = ["--model", "base", "--preset", name, "--use_cpu", "True"]
    model_args, data_args, args = parse_arguments("", words)
    assert f"preset {name}: {{" in capsys.readouterr().out and PRESETS[name]["num_frames"] == frames
    assert (model_args.num_frames, data_args.max_length, args.num_train_epochs) == (frames, 4096, 3)
    assert (args.per_device_train_batch_size, args.learning_rate, args.warmup_steps) == (8, 2e-5, 0.03)
    assert args.lr_scheduler_type == "cosine" and args.weight_decay == 0 and getattr(args, CHECKPOINTING)
    said = ["--learning_rate", "1e-3", "--num_frames", "4", f"--{CHECKPOINTING}", "False"]
    model_args, data_args, args = parse_arguments("", [*said, *words])
    assert (model_args.num_frames, args.learning_rate, getattr(args, CHECKPOINTING)) == (4, 1e-3, False)
    assert args.num_train_epochs == 3 and recipe(model_args, data_args, args)["max_length"] == 4096


def test_an_unknown_preset_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_arguments("", ["--model", "base", "--preset", "kitti"])
    assert "'bddx', 'drama'" in capsys.readouterr().err


def test_a_card_goes_without_its_picture_for_want_of_a_clip_alone(stored_model, capsys):
    def fail(samples):
        raise ValueError("a mistake of the model")

    own = {"args": SimpleNamespace(hub_private_repo=None), "predict_together": fail, "model": tiny_model()}
    processor = AutoProcessor.from_pretrained(stored_model)
    trainer = SimpleNamespace(processing_class=processor, **own)
    nowhere = partial(first_held_out, DataArguments(eval_split="nowhere"), processor)
    assert draw_example(trainer, ["micro-world"], nowhere) is None
    assert "no picture for the card: split must be of" in capsys.readouterr().out
    with pytest.raises(ValueError, match="a mistake of the model"):
        draw_example(trainer, ["micro-world"], partial(first_held_out, DataArguments(), processor))
