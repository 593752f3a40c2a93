"""Arguments that the trainer inherits: each one works, or is refused by its name."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from torch import distributed
from transformers import Trainer, TrainerCallback

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.trainer import AdapterTrainer
from hmba_hf.training.low_rank import LowRankModel
from test_training import WORLD, learning_model, trainer_for
from tiny_bases import SHORT_TEMPLATE
from tiny_processors import tiny_processor

OVERRIDES = [
    (ours, theirs, name)
    for ours, theirs in ((AdapterTrainer, Trainer), (LowRankModel, PeftModel))
    for name, value in vars(ours).items()
    if inspect.isfunction(value) and hasattr(theirs, name)
]


@pytest.mark.parametrize(("ours", "theirs", "name"), OVERRIDES, ids=lambda value: getattr(value, "__name__", value))
def test_an_override_takes_each_argument_of_what_it_overrides(ours, theirs, name):
    own = inspect.signature(getattr(ours, name)).parameters
    kinds = {parameter.kind for parameter in own.values()}
    wanted = list(inspect.signature(getattr(theirs, name)).parameters.values())
    named = [argument.name for argument in wanted if argument.kind == argument.POSITIONAL_OR_KEYWORD]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        assert set(named) <= own.keys()
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        places = [argument.name for argument in own.values() if argument.kind == argument.POSITIONAL_OR_KEYWORD]
        shared = min(len(places), len(named))  # newer versions have more of them
        assert places[:shared] == named[:shared], "arguments come in the same places"


def encoded(split, size):
    collator = SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE))
    return EncodedSamples(MicroWorld(WORLD, split, size), collator, BadSamples("stop"))


class Steps(TrainerCallback):
    """Notes what a callback is told."""

    def __init__(self):
        self.evaluated_at = []

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluated_at.append(state.global_step)


def test_options_of_evaluations_have_their_effect_beside_scored_answers(tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction)
        return {"right": (prediction.predictions == prediction.label_ids).mean()}

    steps = Steps()
    trainer = trainer_for(
        learning_model(),
        tmp_path,
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        eval_delay=2,
        eval_on_start=True,
        eval_accumulation_steps=1,
        include_for_metrics=["inputs", "loss"],
        include_num_input_tokens_seen="all",
        per_device_eval_batch_size=2,
        compute_metrics=metrics,
        preprocess_logits_for_metrics=lambda logits, labels: logits[0].argmax(-1),
        callbacks=[steps],
        eval_dataset={"night": encoded("validation", 3)},
        processing_class=tiny_processor(chat_template=SHORT_TEMPLATE),
        score_answers=lambda answers, samples: {"iou": len(answers) / 4},
        max_new_tokens=1,
    )
    trainer.train()
    assert steps.evaluated_at == [0, 2]
    last = [entry for entry in trainer.state.log_history if "eval_night_right" in entry][-1]
    assert last["eval_night_iou"] == 0.75 and last["num_input_tokens_seen"] > 0
    assert seen[-1].predictions.shape == seen[-1].label_ids.shape == seen[-1].inputs.shape
    assert len(seen[-1].label_ids) == 3 and seen[-1].losses.ndim == 1


def test_metrics_are_computed_batch_by_batch(tmp_path):
    sizes = []

    def metrics(prediction, compute_result):
        sizes.append(len(prediction.label_ids))
        return {"count": sum(sizes)} if compute_result else {}

    options = {"batch_eval_metrics": True, "per_device_eval_batch_size": 2}
    trainer = trainer_for(learning_model(), tmp_path, compute_metrics=metrics, **options)
    assert trainer.evaluate(encoded("validation", 3))["eval_count"] == 3 and sizes == [2, 1]


@pytest.mark.parametrize("option", ["neftune_noise_alpha", "label_smoothing_factor", "data_seed", "compute_loss_func"])
def test_what_changes_a_loss_changes_it(tmp_path, option):
    losses = []
    changes = {"data_seed": 3, "compute_loss_func": lambda outputs, labels, **kwargs: outputs.logits.mean() + 9}
    for options in ({}, {option: changes.get(option, 0.5)}):
        trainer = trainer_for(learning_model(), tmp_path, max_steps=1, **options)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] != losses[1]


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs", "model_init"])
def test_what_is_made_elsewhere_is_used(tmp_path, way):
    model = learning_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    given = {
        "optimizers": (optimizer, None),
        "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.25}),
        "model_init": lambda: model,
    }
    own = None if way == "model_init" else model
    trainer = trainer_for(own, tmp_path, gate_learning_rate=0.5, max_steps=1, **{way: given[way]})
    trainer.train()
    rates = {group["lr"] for group in trainer.optimizer.param_groups}
    assert rates == ({0.01, 0.5} if way == "model_init" else {0.25, 0.5})
    assert trainer.model is model and (way != "optimizers" or trainer.optimizer.optimizer is optimizer)


def test_a_batch_that_needs_too_much_memory_is_halved(tmp_path, monkeypatch):
    step, sizes = AdapterTrainer.training_step, []

    def short_of_memory(self, model, inputs, *args):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > 1:
            raise RuntimeError("CUDA out of memory.")
        return step(self, model, inputs, *args)

    monkeypatch.setattr(AdapterTrainer, "training_step", short_of_memory)
    trainer_for(learning_model(), tmp_path, max_steps=2, auto_find_batch_size=True).train()
    assert sizes == [2, 1, 1]


def test_a_resumed_run_may_begin_its_samples_anew(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2, "ignore_data_skip": True}
    trainer_for(learning_model(), tmp_path, **options).train()
    resumed = trainer_for(learning_model(), tmp_path, restore_callback_states_from_checkpoint=True, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert resumed.state.global_step == 2


@pytest.fixture
def pair(tmp_path):
    """Our trainer and one of transformers, with one model and the same arguments."""
    model = learning_model()
    ours = trainer_for(model, tmp_path, train_dataset=encoded("train", 6), eval_dataset={"night": encoded("test", 3)})
    own = {name: getattr(ours, name) for name in ("train_dataset", "eval_dataset", "data_collator")}
    return ours, Trainer(model=model, args=ours.args, **own)


def test_losses_and_predictions_are_those_of_a_plain_trainer(pair):
    ours, plain = pair
    model = ours.model.eval()
    batch = next(iter(ours.get_train_dataloader()))
    kept = [name for name in model(**batch) if name not in ("loss", "logits")]
    found = []
    for trainer in pair:
        with trainer.compute_loss_context_manager(), trainer.autocast_smart_context_manager(cache_enabled=False):
            loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True, num_items_in_batch=None)
            step = trainer.prediction_step(model, dict(batch), prediction_loss_only=False, ignore_keys=kept)
        trained = trainer.training_step(model, dict(batch), num_items_in_batch=torch.tensor(7))
        model.zero_grad()
        found.append([loss, outputs["logits"], *step, trained, torch.tensor(trainer.floating_point_ops(batch))])
    for mine, wanted in zip(*found, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=0)
    for trainer in pair:
        dataset = trainer.eval_dataset["night"]
        assert trainer.predict(dataset, ignore_keys=kept, metric_key_prefix="day").metrics.keys() >= {"day_loss"}
        assert trainer.evaluate(dataset, ignore_keys=kept, metric_key_prefix="day").keys() >= {"day_loss"}


def test_predictions_leave_out_what_training_is_told_to_ignore(tmp_path):
    seen = []
    dataset = encoded("validation", 2)
    model = learning_model()
    kept = [name for name in model(**dataset.encoder([dataset[0]])) if name not in ("loss", "logits")]
    own = {"compute_metrics": lambda prediction: seen.append(prediction.predictions.ndim) or {}}
    options = {"max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    trainer_for(model, tmp_path, eval_dataset=dataset, **own, **options).train(ignore_keys_for_eval=kept)
    assert seen == [3]


def test_sizes_loaders_and_rates_are_those_of_a_plain_trainer(pair):
    found = []
    for trainer in pair:
        loader = trainer.get_train_dataloader()
        loaders = [loader, trainer.get_eval_dataloader("night"), trainer.get_test_dataloader(encoded("test", 2))]
        sizes = [trainer.num_examples(one) for one in loaders]
        sizes += [trainer.get_cp_size(), trainer.get_sp_size(), trainer.get_tp_size()]
        sizes += [trainer.get_num_trainable_parameters(), trainer.get_total_train_batch_size(trainer.args)]
        sizes += [*trainer.set_initial_training_values(trainer.args, loader)]
        kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        trainer.create_optimizer_and_scheduler(num_training_steps=4)
        trainer.lr_scheduler = None
        trainer.create_scheduler(num_training_steps=4, optimizer=trainer.optimizer)
        parameter = trainer.optimizer.param_groups[0]["params"][0]
        rates = [*trainer.get_learning_rates(), trainer.get_optimizer_group(parameter)["lr"]]
        processes = [trainer.is_local_process_zero(), trainer.is_world_process_zero()]
        found.append([sizes, kind, options, rates, processes])
    assert found[0] == found[1]
    assert found[0][0][:3] == [6, 3, 2] and found[0][4] == [True, True]


def test_records_and_callbacks_are_kept_as_by_a_plain_trainer(pair, tmp_path, capsys):
    trainer, _ = pair
    steps = Steps()
    trainer.add_callback(steps)
    assert trainer.pop_callback(Steps) is steps and trainer.pop_callback(Steps) is None
    trainer.add_callback(steps)
    trainer.remove_callback(steps)
    assert steps not in trainer.callback_handler.callbacks
    trainer.log({"loss": 2.0}, start_time=None)
    assert trainer.state.log_history[-1]["loss"] == 2.0
    trainer.current_flos = 10
    trainer.store_flos()
    assert trainer.state.total_flos == 10
    assert AdapterTrainer.metrics_format({"train_runtime": 61.0}) == {"train_runtime": "0:01:01.00"}
    trainer.log_metrics("train", {"epoch": 1.0})
    assert "train metrics" in capsys.readouterr().out
    trainer.save_metrics("train", {"loss": 3.0}, combined=True)
    trainer.save_state()
    assert {"train_results.json", "all_results.json", "trainer_state.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
    trainer.create_accelerator_and_postprocess()
    trainer.model_init = lambda: trainer.model
    assert trainer.call_model_init(trial=None) is trainer.model


@pytest.mark.skipif(not hasattr(Trainer, "end"), reason="this transformers has no Trainer.end")
def test_the_end_finishes_trackers_and_leaves_the_group_of_processes(tmp_path):
    trainer = trainer_for(learning_model(), tmp_path)
    finished = []
    trainer.accelerator.trackers = [SimpleNamespace(finish=lambda: finished.append("tracker"))]
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    try:
        trainer.end()
        assert finished == ["tracker"] and not distributed.is_initialized()
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
