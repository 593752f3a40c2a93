"""Arguments that the trainer inherits: each one works, or is refused by its name."""

import inspect

import pytest
import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.collator import SampleCollator
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.micro_world import MicroWorld
from hmba_hf.training import AdapterTrainer
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
        assert places == named[: len(places)], "arguments come in the same places"


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
