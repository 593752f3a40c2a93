import copy
import inspect
import json
import os
import signal
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.encoded_samples import EncodedSamples, EncodedStream
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training import ResumableTrainer, set_trainable
from hmba_hf.training.checkpoints import read_recipe
from tiny_bases import SHORT_TEMPLATE
from tiny_models import PARTS, open_gate, part_of, tiny_model
from tiny_processors import tiny_processor

WORLD = MicroWorldConfig(frame_size=32)
GATE = "model.temporal_adapter.gate"


def learning_model():
    """A model whose adapter acts on the answer, so that a gradient reaches all of it."""
    torch.manual_seed(1)
    return open_gate(tiny_model(branches=("temporal", "joint_space_time")))


def trainer_for(model, folder, adapter_learning_rate=None, gate_learning_rate=None, **kwargs):
    """A trainer of few steps; `kwargs` are its own and those of its arguments."""
    named: set[str] = set()
    for kind in (Trainer, ResumableTrainer, AdapterTrainer):
        named.update(inspect.signature(kind).parameters)
    own = {name: kwargs.pop(name) for name in list(kwargs) if name in named}
    args = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    defaults = {
        "train_dataset": MicroWorld(WORLD, "train", 6),
        "data_collator": SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE)),
    }
    return AdapterTrainer(
        model=model,
        args=TrainingArguments(**{**args, **kwargs}),
        adapter_learning_rate=adapter_learning_rate,
        gate_learning_rate=gate_learning_rate,
        **{**defaults, **own},
    )


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def groups_by_name(trainer):
    """The options of the optimizer for each parameter by its name."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = trainer.create_optimizer().param_groups
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def test_every_parameter_belongs_to_one_part():
    names = [name for name, _ in tiny_model().named_parameters()]
    assert {part_of(name) for name in names} == set(PARTS)
    assert part_of("model.vision_tower_of_another_kind.weight") is None


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_a_wrapper_changes_no_parameters_part(wrapper):
    names = [name for name, _ in tiny_model().named_parameters()]
    parts = [part_of(name) for name in names]
    assert [part_of(f"{wrapper}.{name}") for name in names] == parts
    assert [part_of(name.replace(".", f".{wrapper}.", 1)) for name in names] == parts
    assert [part_of(f"{wrapper}.base_model.model.{name}") for name in names] == parts


@pytest.mark.parametrize("parts", [["adapter"], ["projector", "language_model"], ["vision_tower"], list(PARTS)])
def test_only_the_named_parts_learn_and_are_counted(parts):
    model = tiny_model()
    counts = set_trainable(model, parts)
    assert list(counts) == parts
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (part_of(name) in parts), name
    for part, count in counts.items():
        assert count == sum(p.numel() for name, p in model.named_parameters() if part_of(name) == part) > 0


def test_a_second_choice_replaces_the_first():
    model = tiny_model()
    set_trainable(model, ["language_model"])
    set_trainable(model, ["adapter"])
    assert {part_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"adapter"}


def test_the_head_counts_as_language_model_whether_tied_or_not():
    tied, free = tiny_model(tie_word_embeddings=True), tiny_model()
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    difference = set_trainable(free, ["language_model"])["language_model"]
    difference -= set_trainable(tied, ["language_model"])["language_model"]
    assert difference == free.lm_head.weight.numel()
    assert free.lm_head.weight.requires_grad and tied.lm_head.weight.requires_grad


def test_a_part_without_parameters_is_counted_as_nothing():
    counts = set_trainable(tiny_model(adapter="none"), ["adapter", "projector"])
    assert counts["adapter"] == 0 and counts["projector"] > 0
    assert set_trainable(tiny_model(adapter="transformer"), ["adapter"])["adapter"] > 0


def test_nothing_to_learn_is_an_error():
    for parts in (["adapter"], []):
        with pytest.raises(ValueError, match="must hold parameters, got none in"):
            set_trainable(tiny_model(adapter="mean"), parts)


def test_an_unknown_part_is_an_error_that_names_the_known_ones():
    model = tiny_model()
    set_trainable(model, ["projector"])
    with pytest.raises(ValueError, match=r"must be of \['adapter', .*'vision_tower'\], got \['brain'\]"):
        set_trainable(model, ["adapter", "brain"])
    assert {part_of(name) for name, p in model.named_parameters() if p.requires_grad} == {"projector"}


def test_adapter_and_projector_have_a_learning_rate_of_their_own(tmp_path):
    model = tiny_model()
    set_trainable(model, ["adapter", "projector", "language_model"])
    trainer = trainer_for(model, tmp_path, adapter_learning_rate=3e-2, weight_decay=0.1)
    groups = groups_by_name(trainer)
    assert groups.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, group in groups.items():
        assert group["lr"] == (1e-2 if part_of(name) == "language_model" else 3e-2), name
    assert len(trainer.optimizer.param_groups) == 4, "with and without decay, for each learning rate"


def test_no_group_is_empty_when_all_that_learns_has_its_own_rate(tmp_path):
    model = tiny_model()
    set_trainable(model, ["adapter"])
    trainer = trainer_for(model, tmp_path, adapter_learning_rate=3e-2)
    assert {group["lr"] for group in groups_by_name(trainer).values()} == {3e-2}
    assert all(group["params"] for group in trainer.optimizer.param_groups)


@pytest.mark.parametrize(("adapter_rate", "rest"), [(3e-2, 3e-2), (None, 1e-2)])
def test_the_gate_has_a_learning_rate_of_its_own(tmp_path, adapter_rate, rest):
    groups = groups_by_name(trainer_for(tiny_model(), tmp_path, adapter_rate, gate_learning_rate=0.5))
    assert groups.pop(GATE)["lr"] == 0.5
    assert {group["lr"] for name, group in groups.items() if part_of(name) == "adapter"} == {rest}


def test_without_a_learning_rate_of_its_own_the_gate_has_the_adapters(tmp_path):
    assert groups_by_name(trainer_for(tiny_model(), tmp_path, adapter_learning_rate=3e-2))[GATE]["lr"] == 3e-2


def test_a_compiled_model_keeps_the_learning_rates_of_its_parts(tmp_path):
    trainer = trainer_for(tiny_model(), tmp_path, adapter_learning_rate=3e-2, gate_learning_rate=0.5)
    optimizer = trainer.create_optimizer(torch.compile(trainer.model))
    assert {group["lr"] for group in optimizer.param_groups} == {1e-2, 3e-2, 0.5}


def test_a_peft_model_keeps_the_learning_rates_of_its_parts(tmp_path):
    lora = LoraConfig(target_modules=r".*language_model.*q_proj", modules_to_save=["temporal_adapter"])
    model = get_peft_model(tiny_model(), lora)
    trainer = trainer_for(model, tmp_path, adapter_learning_rate=3e-2, gate_learning_rate=0.5)
    rates = {name: group["lr"] for name, group in groups_by_name(trainer).items()}
    adapter = "base_model.model.model.temporal_adapter.modules_to_save.default"
    assert rates[f"{adapter}.gate"] == 0.5 and rates[f"{adapter}.query.fusion.out_proj.weight"] == 3e-2
    assert rates["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight"] == 1e-2


def test_a_learning_rate_of_nothing_is_an_error(tmp_path):
    model = tiny_model()
    set_trainable(model, ["language_model"])
    with pytest.raises(ValueError, match="adapter_learning_rate must be .* something that learns, got 0.03 for no"):
        trainer_for(model, tmp_path, adapter_learning_rate=3e-2).create_optimizer()
    with pytest.raises(ValueError, match="gate_learning_rate must be .* something that learns, got 0.1 for no"):
        trainer_for(tiny_model(adapter="mean"), tmp_path, gate_learning_rate=0.1).create_optimizer()


def test_one_learning_rate_serves_all_when_none_is_set_apart(tmp_path):
    groups = groups_by_name(trainer_for(tiny_model(), tmp_path, weight_decay=0.1))
    assert {group["lr"] for group in groups.values()} == {1e-2}


def test_weight_decay_spares_what_it_would_harm(tmp_path):
    groups = groups_by_name(trainer_for(tiny_model(), tmp_path, adapter_learning_rate=3e-2, weight_decay=0.1))
    spared = {name for name, group in groups.items() if not group["weight_decay"]}
    adapter = {name.removeprefix(PARTS["adapter"]) for name in spared if part_of(name) == "adapter"}
    kinds = ("gate", "temporal_position_embedding", "branch_embedding", "stride_embedding", "A_log", ".D", "bias")
    for kind in (*kinds, "norm.weight", "norms.temporal_stride_1.weight"):
        assert any(name.endswith(kind) for name in adapter), kind
    for name, group in groups.items():
        is_matrix = name.endswith(("proj.weight", "conv1d.weight", "projector.weight"))
        assert group["weight_decay"] == 0.1 or not is_matrix, name


def test_training_lowers_the_loss_and_moves_the_chosen_parts_alone(tmp_path):
    model = learning_model()
    set_trainable(model, ["adapter", "language_model"])
    before = weights(model)
    trainer = trainer_for(model, tmp_path, adapter_learning_rate=3e-2, max_steps=12)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    still = {name for name, after in weights(model).items() if torch.equal(before[name], after)}
    # The scan from the end is read at its first step, the current frame, before anything has decayed.
    undecayed = "model.temporal_adapter.context.mixers.temporal.reverse_mixer.A_log"
    frozen = {name for name in before if part_of(name) in ("vision_tower", "projector")}
    assert still == frozen | {undecayed}


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("parts", [["adapter"], ["projector", "language_model"]])
def test_a_model_of_half_precision_learns_in_small_steps(tmp_path, parts, bf16):
    model = learning_model().to(torch.bfloat16)
    set_trainable(model, parts)
    before = weights(model)
    trainer_for(model, tmp_path, learning_rate=2e-5, max_steps=1, bf16=bf16).train()
    assert model.model.vision_tower.dtype == torch.bfloat16
    assert (model.model.language_model.dtype == torch.float32) == ("language_model" in parts)
    for name, after in weights(model).items():
        if part_of(name) not in parts:
            assert torch.equal(after, before[name]), name
        elif name.endswith("proj.weight"):
            assert (after != before[name]).float().mean() > 0.5, name


def test_label_smoothing_is_about_the_next_token(tmp_path):
    losses = []
    for smoothing in (0, 1e-7):
        trainer = trainer_for(learning_model(), tmp_path, max_steps=1, label_smoothing_factor=smoothing)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def samples_of_lengths(processor, answers):
    """Clips of one size whose answers have as many words as is said, encoded for a model."""
    clips = MicroWorld(WORLD, "train", len(answers))
    samples = [
        replace(clip, question="What?", answer="a" * size, boxes=(), labels=())
        for clip, size in zip(clips, answers, strict=True)
    ]
    return EncodedSamples(samples, SampleCollator(processor), BadSamples("stop"))


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance"])
def test_samples_are_grouped_by_their_number_of_tokens(tmp_path, strategy):
    processor = tiny_processor(chat_template=SHORT_TEMPLATE)
    answers = [1, 40, 2, 41, 3, 42]
    dataset = samples_of_lengths(processor, answers)
    trainer = trainer_for(
        learning_model(),
        tmp_path,
        max_steps=3,
        train_sampling_strategy=strategy,
        train_dataset=dataset,
        eval_dataset=dataset,
        processing_class=processor,
    )
    lengths = [len(dataset[number]["input_ids"]) for number in range(6)]
    batches = [batch["input_ids"].shape[1] for batch in trainer.get_train_dataloader()]
    assert max(batches) == max(lengths) and batches.count(max(lengths)) <= 2
    sampler = trainer._get_train_sampler()
    assert list(sampler.lengths) == lengths
    trainer.train()
    assert trainer.state.global_step == 3


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    begun = learning_model()
    set_trainable(begun, ["adapter", "projector", "language_model"])
    interrupted = copy.deepcopy(begun)
    options = {"adapter_learning_rate": 2e-2, "lr_scheduler_type": "cosine", "save_strategy": "steps", "save_steps": 2}
    whole = trainer_for(begun, tmp_path, **options)
    whole.train()
    resumed = trainer_for(interrupted, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.state.global_step == 4
    expected = weights(begun)
    for name, weight in weights(interrupted).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)


def test_a_run_resumes_from_the_newer_single_file_beside_older_shards(tmp_path):
    begun = learning_model()
    interrupted = copy.deepcopy(begun)
    options = {"save_strategy": "steps", "save_steps": 2}
    trainer_for(begun, tmp_path, **options).train()
    start = tmp_path / "checkpoint-2"
    older = {name: torch.zeros_like(weight) for name, weight in load_file(start / "model.safetensors").items()}
    save_file(older, start / "model-00001-of-00001.safetensors", {"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(older, "model-00001-of-00001.safetensors")}
    (start / "model.safetensors.index.json").write_text(json.dumps(index))
    trainer_for(interrupted, tmp_path, **options).train(resume_from_checkpoint=str(start))
    expected = weights(begun)
    for name, weight in weights(interrupted).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)


def test_quantised_weights_stay_as_they_are_and_do_not_learn():
    model = tiny_model()
    projector = model.model.multi_modal_projector
    codes = torch.arange(projector.weight.numel()).to(torch.int8).view_as(projector.weight)
    projector.weight = torch.nn.Parameter(codes, requires_grad=False)
    set_trainable(model, ["adapter"])
    assert torch.equal(projector.weight, codes) and projector.weight.dtype == torch.int8
    with pytest.raises(ValueError, match=r"got torch.int8 in model.multi_modal_projector.weight"):
        set_trainable(model, ["projector"])


def test_a_search_keeps_each_trials_checkpoints_and_recipe_in_its_own_folder(tmp_path, monkeypatch):
    class Search:
        """Two trials, as the backends of transformers run them."""

        def ensure_available(self):
            pass

        def run(self, trainer, n_trials, direction, **kwargs):
            assert direction == "maximize" and trainer.compute_objective({"eval_loss": 3}) == 3
            for number in range(n_trials):
                wandb.run = SimpleNamespace(id=number)
                trainer.train(trial={"learning_rate": 0.001 * (number + 1), "max_steps": 2})
                assert trainer.state.best_model_checkpoint == str(tmp_path / f"night-{number}" / "checkpoint-2")
            return "best"

    wandb = ModuleType("wandb")
    wandb.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    monkeypatch.setitem(transformers.trainer.ALL_HYPERPARAMETER_SEARCH_BACKENDS, HPSearchBackend.WANDB, Search)
    saves = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    evaluations = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer = trainer_for(
        None,
        tmp_path,
        model_init=learning_model,
        eval_dataset=MicroWorld(WORLD, "validation", 2),
        recipe={"learning_rate": 0.5, "motion": "symmetric"},
        **saves,
        **evaluations,
    )
    search = {"hp_space": lambda trial: {}, "compute_objective": lambda metrics: metrics["eval_loss"]}
    search |= {"n_trials": 2, "direction": "maximize", "hp_name": lambda trial: f"night-{wandb.run.id}"}
    assert trainer.hyperparameter_search(backend="wandb", **search) == "best"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["night-0", "night-1"]
    for number in range(2):
        run = tmp_path / f"night-{number}"
        assert [path.name for path in run.iterdir()] == ["checkpoint-2"]
        rate = 0.001 * (number + 1)
        assert read_recipe(run / "checkpoint-2") == {"learning_rate": rate, "motion": "symmetric"}


class Signal(TrainerCallback):
    """SIGTERM at the beginning of each step."""

    def on_step_begin(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_search_that_sigterm_comes_to_ends_with_the_trial(tmp_path, monkeypatch):
    raised = []
    monkeypatch.setattr("transformers.integrations.hp_params", dict)
    monkeypatch.setattr("hmba_hf.training.trainer.signal.raise_signal", raised.append)
    trainer = trainer_for(learning_model(), tmp_path, enable_jit_checkpoint=True)
    trainer.add_callback(Signal())
    trainer.train(trial={"learning_rate": 0.1})
    assert trainer.state.global_step == 1 and raised == [signal.SIGTERM]


def test_answers_are_scored_under_the_name_of_the_evaluation_and_only_if_they_are_wanted(tmp_path):
    processor = tiny_processor(chat_template=SHORT_TEMPLATE)
    own = {"processing_class": processor, "score_answers": lambda *args: {"iou": 0.5}, "max_new_tokens": 1}
    clips = EncodedSamples(MicroWorld(WORLD, "validation", 2), SampleCollator(processor), BadSamples("stop"))
    trainer = trainer_for(learning_model(), tmp_path, **own)
    loop = trainer.evaluation_loop(trainer.get_eval_dataloader(clips), "Night", None, None, "night")
    assert {"night_loss", "night_iou"} <= loop.metrics.keys()
    assert {"test_loss", "test_iou"} <= trainer.predict(clips).metrics.keys()
    quick = trainer_for(learning_model(), tmp_path, prediction_loss_only=True, **own)
    assert quick.evaluate(clips).keys() >= {"eval_loss"} and "eval_iou" not in quick.evaluate(clips)


def test_a_whole_checkpoint_that_a_run_begins_at_is_not_written_again(tmp_path, monkeypatch):
    options = {"max_steps": -1, "num_train_epochs": 1, "save_strategy": "epoch"}
    trainer_for(learning_model(), tmp_path, **options).train()
    resumed = trainer_for(learning_model(), tmp_path, **options)
    monkeypatch.setattr("transformers.Trainer._save_checkpoint", lambda *args: pytest.fail("it is whole"))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3


def test_true_resumes_at_the_last_whole_checkpoint(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1}
    with pytest.raises(ValueError, match="must be a whole checkpoint, got none in"):
        trainer_for(learning_model(), tmp_path, **options).train(resume_from_checkpoint=True)
    trainer_for(learning_model(), tmp_path, **options).train()
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    resumed = trainer_for(learning_model(), tmp_path, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed._initial_global_step == 3 and resumed.state.global_step == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_column_name": "tokens"}, "length_column_name names a column of a table, got 'tokens' for samples"),
        ({"train_sampling_strategy": "group_by_length"}, "order of its own, got .*'group_by_length'"),
        ({"train_sampling_strategy": "sequential"}, "order of its own, got train_sampling_strategy='sequential'"),
        ({"accelerator_config": {"split_batches": True}}, r"its own share of .*, got .* \['split_batches'\]"),
        ({"accelerator_config": {"dispatch_batches": True}}, r"its own share of .*, got .* \['dispatch_batches'\]"),
    ],
)
def test_options_of_drawing_that_a_stream_leaves_without_effect_are_refused(tmp_path, options, message):
    stream = EncodedStream(None, None, BadSamples("stop"))
    with pytest.raises(ValueError, match=message):
        trainer_for(tiny_model(), tmp_path, train_dataset=stream, **{"max_steps": 1, **options})


def test_a_stream_is_loaded_as_the_options_of_loaders_say(tmp_path):
    options = {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3, "drop_last": True}
    options |= {"multiprocessing_context": "spawn", "in_order": False}
    named = {f"dataloader_{name}": value for name, value in options.items()}
    trainer = trainer_for(tiny_model(), tmp_path, train_dataset=EncodedStream(None, None, BadSamples("stop")), **named)
    loader = trainer.get_train_dataloader()
    assert loader.multiprocessing_context.get_start_method() == options.pop("multiprocessing_context")
    assert {name: getattr(loader, name) for name in options} == options


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_an_optimizer_of_one_rate_is_refused_where_parts_have_their_own(tmp_path, monkeypatch, optim):
    model = tiny_model()
    one = torch.optim.SGD(model.parameters(), lr=0.1)
    monkeypatch.setattr("transformers.Trainer.create_optimizer", lambda *args: one)
    assert trainer_for(model, tmp_path, optim=optim).create_optimizer() is one
    with pytest.raises(ValueError, match=f"learning rates of parts need an optimizer .*, got --optim {optim}"):
        trainer_for(model, tmp_path, adapter_learning_rate=0.1, optim=optim).create_optimizer()


def test_a_card_is_told_by_transformers_names_or_the_name_is_refused(tmp_path):
    trainer = trainer_for(tiny_model(), tmp_path)
    trainer.create_model_card(license="mit", tags="night", finetuned_from="org/base", dataset_tags=["org/drama"])
    card = (tmp_path / "README.md").read_text()
    for line in ("license: mit", "- night", "base_model:\n- org/base", "datasets:\n- org/drama"):
        assert line in card, line
    for door in (trainer.create_model_card, trainer.push_to_hub):
        with pytest.raises(ValueError, match=r"details of a card must be of .*, got \['language', 'model_name'\]"):
            door(language="de", model_name="mine")
