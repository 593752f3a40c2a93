"""A family and a task that the package has never heard of are trained, resumed, scored and shown by its own rooms."""

from pathlib import Path

import pytest
import torch
from transformers import default_data_collator

from hmba_hf import HMBAVideoProcessor
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.evaluation.batches import predict_batches
from hmba_hf.evaluation.predicting import SplitArguments, load_predictor, predict_splits, write_predictions
from hmba_hf.evaluation.records import read_records
from hmba_hf.evaluation.results import format_table, run_metrics
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.evaluation.splits import load_splits
from hmba_hf.families import FAMILIES, TASKS, find_task, load_model, register_family, register_task
from hmba_hf.files import read_json_object, write_json
from hmba_hf.hub import CardDetails, save_checkpoint
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.training import ResumableTrainer, set_trainable
from hmba_hf.training.arguments import ResumableArguments
from hmba_hf.training.checkpoints import checkpoint_to_resume
from hmba_hf.training.run import draw_example

WORLD = MicroWorldConfig(frame_size=32)
RECIPE = {"learning_rate": 0.1}


@pytest.fixture(scope="module")
def toy():
    """The module of the toy family, which is forgotten afterwards."""
    import toy_family

    yield toy_family
    FAMILIES[:] = [family for family in FAMILIES if family.model_type != "toy"]
    del TASKS["toy"]


class ToyEncoder:
    def __init__(self, toy, processor):
        self.toy = toy
        self.processor = processor

    def encode(self, sample):
        pixels = self.toy.encode([sample], self.processor)["pixel_values_videos"][0]
        return {"pixel_values_videos": pixels, "labels": self.toy.record(sample)["reference"]}


@pytest.fixture(scope="module")
def processor():
    return HMBAVideoProcessor(size={"height": 32, "width": 32})


def train(toy, processor, folder, steps):
    """Train up to so many steps, from the last whole checkpoint in the folder if there is one."""
    checkpoint = checkpoint_to_resume(folder, RECIPE)
    model = toy.ToyModel(toy.ToyConfig())
    for parameter in model.parameters():
        parameter.data.zero_()
    assert set_trainable(model, ["head"]) == {"head": 8}
    args = ResumableArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        lr_scheduler_type="constant",
        save_strategy="steps",
        save_steps=1,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = ResumableTrainer(
        model=model,
        args=args,
        train_dataset=EncodedSamples(MicroWorld(WORLD, "train", 8), ToyEncoder(toy, processor), BadSamples("stop")),
        data_collator=default_data_collator,
        processing_class=processor,
        learning_rates={"head": 0.1},
        recipe=RECIPE,
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    assert [group["lr"] for group in trainer.optimizer.param_groups if group["params"]] == [0.1, 0.1]
    trainer.save_model(_internal_call=True)
    return model.head.weight


def predict(toy, checkpoint, folder):
    """Predict for the first clips of the held-out split, and return the file of predictions."""
    arguments = SplitArguments(model=str(checkpoint), max_samples=6, batch_size=4, output_dir=str(folder))
    model, processor = load_predictor(arguments)
    samples = load_splits("micro-world", ["test"], arguments.max_samples, frame_size=32)
    return write_predictions(arguments, find_task("toy"), model, processor, samples)


def test_a_family_from_outside_takes_fewer_than_sixty_lines(toy):
    assert len(Path(toy.__file__).read_text().splitlines()) < 60


def test_a_family_from_outside_is_trained_resumed_predicted_scored_and_shown(toy, processor, tmp_path):
    undisturbed = train(toy, processor, tmp_path / "undisturbed", steps=2)
    stopped = train(toy, processor, tmp_path / "run", steps=1)
    resumed = train(toy, processor, tmp_path / "run", steps=2)
    assert torch.equal(resumed, undisturbed) and not torch.equal(resumed, stopped)
    with pytest.raises(ValueError, match="holds checkpoints of another recipe: learning_rate"):
        checkpoint_to_resume(tmp_path / "run", {"learning_rate": 0.2})

    predictions = predict(toy, tmp_path / "run", tmp_path / "test")
    records = read_records(predictions)
    assert [record["task"] for record in records] == ["toy"] * 6
    scored = ScoredRecords(records, Bootstrap(draws=2))
    right = [record["answer"] == record["reference"] for record in records]
    assert scored.summary()["scores"] == {"accuracy": sum(right) / 6}
    assert scored.summary()["tags"]["motion: symmetric"]["samples"] == 6

    recipe = read_json_object(predictions.parent / "recipe.json")
    metrics = run_metrics(scored, recipe, "predict the toy")
    write_json(predictions.parent / "metrics.json", metrics)
    assert f"accuracy  {sum(right) / 6:.3f}" in format_table(metrics)
    model = load_model(tmp_path / "run")
    folder = save_checkpoint(tmp_path / "shown", model, processor, results=[predictions.parent])
    card = (folder / "README.md").read_text()
    assert f"accuracy: {sum(right) / 6}" in card and "pipeline_tag: video-classification" in card
    assert "type: video-classification" in card and "micro-world" in card
    with pytest.raises(ValueError, match="must hold scores of this checkpoint"):
        other = toy.ToyModel(toy.ToyConfig())
        save_checkpoint(tmp_path / "other", other, processor, results=[predictions.parent])


@pytest.mark.parametrize("is_drawn", [True, False])
def test_a_task_draws_the_picture_of_its_cards_or_none(toy, processor, tmp_path, monkeypatch, is_drawn):
    def draw(sample, prediction, processor, name):
        assert (prediction, name) == (7, "Toy")
        return sample.frames[-1]

    if is_drawn:
        monkeypatch.setitem(TASKS, "toy", find_task("toy")._replace(draw=draw))
    model = toy.ToyModel(toy.ToyConfig())
    trainer = ResumableTrainer(
        model=model,
        args=ResumableArguments(output_dir=str(tmp_path), use_cpu=True),
        processing_class=processor,
        predict=lambda model, processor, samples, batch_size: ((sample, 7) for sample in samples),
    )
    world = MicroWorld(WORLD, "test", 1)
    picture = draw_example(trainer, ["micro-world"], load=lambda name: world[0])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "example_answer.png").write_text("of version 0.1")
    folder = save_checkpoint(tmp_path / "model", model, processor, card=CardDetails(picture=picture))
    shown = ["example.png"] if is_drawn else []
    assert [path.name for path in folder.glob("*.png")] == shown


def test_a_learning_rate_of_an_unknown_group_is_refused(toy, tmp_path):
    args = ResumableArguments(output_dir=str(tmp_path), use_cpu=True)
    trainer = ResumableTrainer(model=toy.ToyModel(toy.ToyConfig()), args=args, learning_rates={"hat": 0.1})
    with pytest.raises(ValueError, match=r"learning_rates must be of \['head'\], got \['hat'\]"):
        trainer.create_optimizer()


def test_a_rule_by_names_scales_the_learning_rates_of_parts(toy, tmp_path):
    args = ResumableArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.01)
    model = toy.ToyModel(toy.ToyConfig())

    def scale(name):
        return 0.5 if name == "head.bias" else 1.0

    for rates, wanted in (({}, 0.01), ({"head": 0.1}, 0.1)):
        trainer = ResumableTrainer(model=model, args=args, learning_rates=rates, rate_scale=scale)
        groups = trainer.create_optimizer().param_groups
        found = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        assert found == {id(model.head.weight): wanted, id(model.head.bias): wanted / 2}


def test_a_task_without_a_way_to_load_splits_says_so(toy):
    with pytest.raises(ValueError, match="task 'toy' must have load to predict for splits by their names"):
        predict_splits(SplitArguments(model="toy"), find_task("toy"))


def test_a_record_of_a_row_that_cannot_be_read_is_of_the_task_of_the_others(toy):
    lost = {"id": None, "task": "toy", "split": "lost", "answer": None, "error": "OSError: gone"}
    found = {"id": "a", "task": "toy", "split": "found", "answer": 1, "reference": 1}
    splits = ScoredRecords([lost, found]).summary()["splits"]
    assert {name: part["task"] for name, part in splits.items()} == {"lost": "toy", "found": "toy"}
    assert splits["lost"]["scores"] == {} and splits["found"]["scores"] == {"accuracy": 1.0}


def test_a_wrong_number_of_predictions_is_refused():
    model = torch.nn.Linear(1, 1)
    samples = MicroWorld(WORLD, "test", 2)
    with pytest.raises(ValueError, match="must return one prediction for each of 2 samples, got 1"):
        list(predict_batches(model, samples, [[0, 1]], encode=list, predict=lambda inputs: ["one"]))


def test_a_task_predicts_without_gradients():
    model = torch.nn.Linear(1, 1)
    seen = []

    def note(inputs):
        seen.append(model(torch.ones(1)).requires_grad)
        return [0]

    list(predict_batches(model, MicroWorld(WORLD, "test", 1), [[0]], encode=list, predict=note))
    assert seen == [False]


def test_scores_without_predictions_are_refused_before_training(toy, tmp_path):
    args = ResumableArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="predict must be given with score, got None"):
        ResumableTrainer(model=toy.ToyModel(toy.ToyConfig()), args=args, score=lambda *_: {})


def test_records_of_two_tasks_are_not_scored_together(toy):
    answer = {"id": "a", "answer": "A car.", "reference": "A car."}
    prediction = {"id": "b", "task": "toy", "answer": 1, "reference": 1}
    with pytest.raises(ValueError, match=r"records must be of one task, got \['answering', 'toy'\]"):
        ScoredRecords([answer, prediction])


def test_a_name_that_is_taken_is_refused(toy):
    with pytest.raises(ValueError, match="name must be one that no task has, got 'answering'"):
        register_task(find_task("answering"))
    with pytest.raises(ValueError, match="model_type must be one that no family has, got 'hmba'"):
        register_family(FAMILIES[0])
    with pytest.raises(ValueError, match=r"task must be of .*'toy'\], got 'singing'"):
        register_family(FAMILIES[0]._replace(model_type="bird", task="singing"))
