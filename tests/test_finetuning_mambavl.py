"""A MambaVL learns to answer a question for each head, resumes exactly, and says what it was asked."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from asked_clips import HEADS, AskedClips, save_halves, save_mambavl, tiny_asked_processor, write_asked_dataset
from drawn_clips import Clips, save_base
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.evaluation.records import read_records
from hmba_hf.families import family_of, load_model
from hmba_hf.hub import save_checkpoint
from hmba_hf.models.processing_mambavl import MambaVLProcessor
from hmba_hf.tasks.classification import run as classification_run
from hmba_hf.tasks.classification.encoding import ClipEncoder, join
from hmba_hf.tasks.classification.heads import Heads
from hmba_hf.tasks.classification.question_arguments import (
    PRESETS,
    QuestionDataArguments,
    QuestionModelArguments,
    QuestionTrainingArguments,
    check_options,
    parse_arguments,
)
from hmba_hf.tasks.classification.question_run import finetune
from hmba_hf.tasks.classification.questions import AskedSamples, Asking
from tiny_mambavl import tiny_config
from tiny_runs import run_example


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_mambavl(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    return save_halves(tmp_path_factory.mktemp("halves"))


@pytest.fixture
def clips(monkeypatch):
    """Let all datasets be drawn clips, of which one has no known verb."""

    def load(name, split, size, **options):
        return AskedClips(size or 8, {1: {"labels": {"verb": None, "noun": 1}}})

    monkeypatch.setattr(classification_run, "load_samples", load)


def arguments(base, folder, data=None, **options):
    model = {name: options.pop(name) for name in list(options) if name in QuestionModelArguments.__dataclass_fields__}
    if base is not None:
        model["model"] = str(base)
    given = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 3,
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return QuestionModelArguments(**model), QuestionDataArguments(**(data or {})), QuestionTrainingArguments(**given)


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mixed", [True, False])
def test_a_resumed_run_ends_where_an_undisturbed_one_does(base, clips, tmp_path, mixed):
    data = {"questions": "annotation", "hide_words": True, "num_draws": 2}
    options = {"label_smoothing_factor": 0.1, "rate_drops": [0.5], "lr_scheduler_type": "constant"}
    if mixed:
        data |= {"mixup": 0.8, "cutmix": 1.0}
    else:
        options["answer_loss_weight"] = 0.5
    finetune(*arguments(base, tmp_path / "whole", data, **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "again" / "checkpoint-1")
    finetune(*arguments(base, tmp_path / "again", data, **options))
    assert equal(weights(tmp_path / "whole"), weights(tmp_path / "again"))
    assert not equal(weights(tmp_path / "whole"), weights(tmp_path / "whole" / "checkpoint-1"))


def test_two_models_are_joined_by_the_program_and_the_text_model_stays_as_it_is(halves, tmp_path):
    vision, text = halves
    words = ["--vision", vision, "--text", text, "--dataset_name", "micro-questions", "--num_frames", 2]
    words += ["--max_steps", 1, "--max_train_samples", 4, "--per_device_train_batch_size", 2, "--use_cpu", "True"]
    run_example("finetune_mambavl.py", *words, "--output_dir", tmp_path, "--disable_tqdm", "True")
    held = weights(tmp_path)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(held[f"mambavl.text_model.{name}"], weights(text)[name])
    model = load_model(tmp_path)
    assert list(model.config.heads) == ["verb", "noun"] and model.config.heads["noun"][0] == "red disc"
    assert model.config.num_frames == MambaVLProcessor.from_pretrained(tmp_path).video_processor.num_frames == 2
    assert not any(name.endswith("text_mixer.A_log") for name in held)


def test_a_video_model_of_clips_is_fitted_to_another_number_of_frames_and_goes_on(halves, clips, tmp_path):
    vision = save_base(tmp_path / "videomamba")
    joined = {"vision": str(vision), "text": str(halves[1]), "num_frames": 4, "max_steps": 1}
    finetune(*arguments(None, tmp_path / "run", **joined))
    model = load_model(tmp_path / "run")
    assert model.config.num_frames == model.config.vision_config.num_frames == 4
    name = "mambavl.vision_model.embeddings.temporal_embeddings"
    assert weights(tmp_path / "run")[name].shape == (1, 4, 16)
    finetune(*arguments(tmp_path / "run", tmp_path / "again", num_frames=3, max_steps=1))
    assert weights(tmp_path / "again")[name].shape == (1, 3, 16)


def test_parts_have_learning_rates_of_their_own_and_A_log_is_not_decayed(base, clips, tmp_path):
    options = {"video_learning_rate": 1e-3, "mamba_learning_rate": 3e-2, "weight_decay": 0.1, "max_steps": 1}
    trainer = finetune(*arguments(base, tmp_path, lr_scheduler_type="constant", **options))
    found = {}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            found[id(parameter)] = (group["lr"], group["weight_decay"])
    model = trainer.model
    fusion = model.mambavl.fusion
    assert found[id(fusion.video_mixer.A_log)] == (1e-2, 0.0)
    assert found[id(fusion.video_mixer.D)] == (3e-2, 0.0)
    assert fusion.text_mixer.A_log is fusion.video_mixer.A_log
    assert found[id(fusion.text_mixer.in_proj.weight)] == (3e-2, 0.1)
    assert found[id(model.classifiers["verb"].weight)] == (1e-2, 0.1)
    vision = next(weight for weight in model.mambavl.vision_model.parameters() if weight.ndim == 2)
    assert found[id(vision)][0] == 1e-3
    text = next(model.mambavl.text_model.parameters())
    assert id(text) not in found and not text.requires_grad
    assert "A_log" in family_of(model).no_weight_decay


def test_frozen_parts_have_no_dropout_in_training(base, clips, tmp_path):
    trainer = finetune(*arguments(base, tmp_path, max_steps=1))
    model = trainer.model.train()
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(2)])
    trainer.compute_loss(model, batch)
    assert model.training and not model.mambavl.text_model.training and model.mambavl.vision_model.training


def test_learning_rates_drop_after_shares_of_the_training(base, clips, tmp_path):
    options = {"rate_drops": [0.5, 0.75], "lr_scheduler_type": "constant", "max_steps": 4, "logging_steps": 1}
    trainer = finetune(*arguments(base, tmp_path, **options))
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])


def test_a_run_evaluates_each_head_where_its_class_is_known(base, clips, tmp_path):
    trainer = finetune(*arguments(base, tmp_path, eval_strategy="steps", eval_steps=2))
    (logged,) = [entry for entry in trainer.state.log_history if "eval_noun_top_1" in entry]
    assert logged["eval_verb_top_5"] == logged["eval_noun_top_5"] == 1.0
    assert 0 <= logged["eval_action_top_1"] <= min(logged["eval_verb_top_1"], 1)
    assert json.loads((tmp_path / "training_arguments.json").read_text())["questions"] == "generic"


def test_chosen_heads_and_one_class_data_give_models_of_fewer_heads(base, clips, tmp_path, monkeypatch):
    finetune(*arguments(base, tmp_path / "verb", {"on_error": "skip"}, heads=["verb"], max_steps=1))
    assert load_model(tmp_path / "verb").config.heads == {"verb": HEADS["verb"]}
    monkeypatch.setattr(classification_run, "load_samples", lambda *_, **__: Clips(4))
    with pytest.raises(ValueError, match="the processor must have a generic question for 'action'"):
        finetune(*arguments(base, tmp_path / "action", max_steps=1))
    asked = {"generic_questions": ["what does it do ?"], "max_steps": 1, "eval_strategy": "steps"}
    trainer = finetune(*arguments(base, tmp_path / "action", **asked))
    assert load_model(tmp_path / "action").config.heads == {"action": ["left", "right", "still"]}
    assert any("eval_top_1" in entry for entry in trainer.state.log_history)


def test_a_head_of_the_same_classes_is_kept_and_another_one_is_drawn_anew(base, clips, tmp_path):
    finetune(*arguments(base, tmp_path / "same", max_steps=1, learning_rate=0.0))
    assert equal(weights(tmp_path / "same"), weights(base))
    other = save_mambavl(tmp_path / "other", {"verb": ["a", "b", "c"], "noun": HEADS["noun"]})
    finetune(*arguments(other, tmp_path / "new", max_steps=1, learning_rate=0.0))
    held = weights(tmp_path / "new")
    assert not torch.equal(held["classifiers.verb.weight"], weights(other)["classifiers.verb.weight"])
    assert torch.equal(held["classifiers.noun.weight"], weights(other)["classifiers.noun.weight"])


def encoded(number, source="annotation", hide_words=False, changed=None):
    processor = tiny_asked_processor()
    asking = Asking(source, hide_words, processor, tuple(HEADS), classes=HEADS)
    samples = AskedSamples(AskedClips(4, changed), asking)
    return ClipEncoder(processor, Heads(HEADS, asks=True), with_answers=True).encode(samples[number]), processor


def test_a_question_of_a_head_hides_the_words_of_the_other_labels():
    shown, processor = encoded(0)
    hidden, _ = encoded(0, hide_words=True, changed={0: {"label_names": {}}})  # named by the classes of the data
    tokenizer = processor.tokenizer
    verb, noun = [tokenizer.decode(ids) for ids in shown["input_ids"][0]]
    assert "red square" in verb and "moves left" in noun
    verb, noun = [tokenizer.decode(ids) for ids in hidden["input_ids"][0]]
    assert "red" not in verb and "left" not in noun and "<mask>" in verb and "<mask>" in noun
    assert "do ?" in verb and "which one" in noun


def test_nothing_is_asked_or_the_same_of_all():
    nothing, _ = encoded(0, "none")
    assert not nothing["attention_mask"].any() and nothing["input_ids"].shape[:2] == (1, 2)
    first, _ = encoded(0, "generic")
    second, _ = encoded(1, "generic")
    assert torch.equal(first["input_ids"], second["input_ids"])
    batch = join([nothing, first], pad_token_id=1)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, *first["input_ids"].shape[1:])
    assert batch["labels"].tolist() == [[0, 0], [0, 0]]


def test_a_model_that_reads_padding_gets_all_of_it():
    processor = tiny_asked_processor()
    asking = Asking.of(tiny_config(heads=HEADS, ignore_text_mask=True), processor, "generic", hide_words=False)
    (sample,) = AskedSamples(AskedClips(1), asking)
    inputs = ClipEncoder(processor, Heads(HEADS, asks=True), with_answers=True).encode(sample)
    assert inputs["input_ids"].shape == inputs["answer_input_ids"].shape == (1, 2, processor.max_text_length)


def test_a_class_that_is_not_known_trains_nothing_and_a_clip_without_any_is_bad():
    unknown, _ = encoded(0, "generic", changed={0: {"labels": {"verb": None, "noun": 1}, "label_names": {}}})
    assert unknown["labels"].tolist() == [[-100, 1]]
    assert unknown["answer_attention_mask"].any(-1).tolist() == [[False, True]]
    with pytest.raises(ValueError, match="sample clip 0 must have a label of verb from 0 to 2, got None"):
        encoded(0, "generic", changed={0: {"labels": {"verb": None, "noun": None}}})
    with pytest.raises(ValueError, match="sample clip 0 must have a label of noun from 0 to 1, got 7"):
        encoded(0, "generic", changed={0: {"labels": {"verb": 0, "noun": 7}}})


def test_a_clip_without_a_question_of_the_source_stops_a_run_or_is_counted(base, tmp_path, monkeypatch):
    def load(name, split, size, **options):
        return AskedClips(6, {2: {"questions": ()}})

    monkeypatch.setattr(classification_run, "load_samples", load)
    message = "sample clip 2 must have a question of source 'annotation' for 'verb', got none"
    with pytest.raises(ValueError, match=message):
        finetune(*arguments(base, tmp_path / "stop", {"questions": "annotation"}))
    finetune(*arguments(base, tmp_path / "skip", {"questions": "annotation", "on_error": "skip"}))
    assert "clip 2" in (tmp_path / "skip" / "history.json").read_text()
    assert BadSamples("skip", tmp_path / "skip" / "bad_samples.jsonl").skipped()


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ({"questions": "gpt"}, {}, "questions must be of .*'none', 'generic', 'predicted', 'annotation'.*, got 'gpt'"),
        ({"questions": "none", "hide_words": True}, {}, "hide_words must come .*, got 'none'"),
        ({"hide_words": True}, {}, "hide_words must come with questions 'annotation', got 'generic': a mask tells of"),
        ({"questions": "predicted", "hide_words": True}, {}, "hide_words must come .*, got 'predicted'"),
        ({"mixup": 0.8}, {"answer_loss_weight": 1.0}, "answer_loss_weight of a model must be 0 with mixup"),
        (
            {},
            {"base_learning_rate": 1e-3, "video_learning_rate": 1e-4},
            "base_learning_rate must be absent beside learning rates of parts, .* got 0.001 and {'video': 0.0001}",
        ),
        ({}, {"base_learning_rate": 1e-3, "mamba_learning_rate": 1e-4}, "base_learning_rate must be absent beside"),
        ({}, {"vision": "v"}, "one of --model and of --vision with --text must be given"),
        ({}, {"fusion": "mlp"}, "fusion must come with --vision and --text, got 'mlp'"),
        ({}, {"heads": ["verb", "verb"]}, "heads must name each head once"),
        (
            {},
            {"heads": ["verb", "reason"]},
            r"heads must be of .*'noun'\], as in the dataset, got \['reason'\]",
        ),
        ({}, {"generic_questions": ["one ?"]}, "generic_questions must be one for each of the heads"),
        ({}, {"rate_drops": [1.5], "lr_scheduler_type": "constant"}, "rate_drops must be shares"),
        ({}, {"rate_drops": [0.5]}, "rate_drops must come with --lr_scheduler_type constant"),
        ({"questions": "predicted"}, {}, "must have a question of source 'predicted' for 'verb', got none"),
        ({}, {"learns": ["encoder"]}, "what learns must be of"),
    ],
)
def test_options_that_cannot_hold_are_refused(base, clips, tmp_path, data, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(*arguments(base, tmp_path, data, **options))


def test_a_checkpoint_of_another_family_is_refused_both_ways(base, clips, tmp_path):
    other = save_base(tmp_path / "videomamba")
    with pytest.raises(ValueError, match="model must be of a family that reads questions, got VideoMamba"):
        finetune(*arguments(other, tmp_path / "run"))
    words = ["--model", base, "--dataset_name", "micro-actions", "--output_dir", tmp_path / "run", "--use_cpu", "True"]
    with pytest.raises(ValueError, match="model must be of a family that is asked nothing, got MambaVL"):
        run_example("finetune_videomamba.py", *words, "--max_train_samples", 2)
    words = ["--model", other, "--dataset_name", "micro-actions", "--output_dir", tmp_path / "run", "--max_samples", 2]
    with pytest.raises(ValueError, match="questions and hide_words must be absent for a model that is asked nothing"):
        run_example("predict.py", *words, "--questions", "generic", "--device_map", "cpu")


def test_clips_are_not_mixed_where_the_model_itself_learns_the_texts_of_answers(clips, tmp_path):
    base = save_mambavl(tmp_path / "base", answer_loss_weight=0.5)
    with pytest.raises(ValueError, match="answer_loss_weight of a model must be 0 with mixup or cutmix, .* got 0.5"):
        finetune(*arguments(base, tmp_path / "run", {"cutmix": 1.0}))
    finetune(*arguments(base, tmp_path / "run", {"cutmix": 1.0}, answer_loss_weight=0.0, max_steps=1))
    assert load_model(tmp_path / "run").config.answer_loss_weight == 0


def test_a_model_that_reads_padding_leaves_a_processor_that_pads_all_questions_alike(halves, clips, tmp_path):
    vision, text = (str(half) for half in halves)
    joined = {"vision": vision, "text": text, "ignore_text_mask": True, "num_frames": 2}
    finetune(*arguments(None, tmp_path / "joined", max_steps=1, **joined))
    base = save_mambavl(tmp_path / "base", ignore_text_mask=True)
    finetune(*arguments(base, tmp_path / "loaded", max_steps=1))
    for run in ("joined", "loaded"):
        processor = MambaVLProcessor.from_pretrained(tmp_path / run)
        short = processor(questions=[{"verb": "what ?", "noun": "which ?"}], return_tensors="pt")
        assert short["input_ids"].shape == (1, 2, processor.max_text_length)


def test_samples_that_are_kept_for_scores_hold_no_video(base, clips, tmp_path):
    trainer = finetune(*arguments(base, tmp_path, max_steps=1, eval_strategy="steps"))
    samples = trainer.eval_dataset.samples
    _, kept = trainer.predict_together(samples)
    assert [sample.id for sample in kept] == [sample.id for sample in samples]
    assert not any(sample.video for sample in kept) and all(sample.video for sample in samples)


@pytest.mark.parametrize("source", [None, "generic", "predicted"])
def test_words_are_hidden_by_the_right_answers_in_questions_of_annotations_alone(base, tmp_path, source):
    write_asked_dataset(tmp_path / "data", AskedClips(2))
    words = ["--model", base, "--dataset_name", tmp_path / "data", "--output_dir", tmp_path / "run"]
    words += ["--device_map", "cpu", "--hide_words"]
    if source is not None:
        words += ["--questions", source]
    message = f"hide_words must come with questions 'annotation', got '{source or 'generic'}'"
    with pytest.raises(ValueError, match=message):
        run_example("predict.py", *words)


def test_other_classes_than_those_of_the_model_are_refused_in_predictions(base, tmp_path):
    words = ["--model", base, "--dataset_name", "micro-questions", "--output_dir", tmp_path, "--device_map", "cpu"]
    with pytest.raises(ValueError, match="classes of verb of the model must be 10, as in the dataset, got 3"):
        run_example("predict.py", *words)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_of_options_that_are_there(name, tmp_path):
    words = ["--model", "m", "--preset", name, "--output_dir", str(tmp_path), "--use_cpu", "True"]
    parsed = parse_arguments("", words)
    check_options(*parsed)
    for option, value in PRESETS[name].items():
        assert any(getattr(part, option, None) == value for part in parsed), option
    assert parsed[1].questions == "generic" and not parsed[1].hide_words


def test_sgd_of_the_preset_has_its_momentum(base, clips, tmp_path):
    options = {name: PRESETS["epic-recognition"][name] for name in ("optim", "optim_args", "lr_scheduler_kwargs")}
    schedule = PRESETS["epic-recognition"]["lr_scheduler_type"]
    trainer = finetune(*arguments(base, tmp_path, max_steps=1, lr_scheduler_type=schedule, **options))
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.9}


def test_clips_are_asked_about_scored_and_shown_on_the_card_with_the_source(base, tmp_path, capsys):
    clips = AskedClips(6, {4: {"questions": ()}, 5: {"labels": {"verb": 2, "noun": None}, "label_names": {}}})
    write_asked_dataset(tmp_path / "data", clips, broken="clip 3")
    words = ["--model", base, "--dataset_name", tmp_path / "data", "--batch_size", 2, "--device_map", "cpu"]
    words += ["--num_temporal_views", 4, "--num_spatial_views", 3, "--on_error", "skip", "--draws", 5]
    asked = [*words, "--questions", "annotation", "--hide_words", "True", "--output_dir", tmp_path / "annotation"]
    run_example("evaluate.py", *asked)
    shown = capsys.readouterr().out
    assert "questions: 'annotation, words of labels hidden'" in shown and "upper bounds" in shown
    records = read_records(tmp_path / "annotation" / "predictions.jsonl")
    assert [bool(record["error"]) for record in records] == [False, False, False, True, True, False]
    assert records[4]["id"] == "clip 4" and "must have a question of source 'annotation'" in records[4]["error"]
    first = records[0]
    assert first["reference"] == {"verb": 0, "noun": 0} and first["questions"]["source"] == "annotation"
    assert "<mask>" in first["questions"]["texts"]["verb"]
    assert sum(item["score"] for item in first["answer"]["heads"]["verb"]) == pytest.approx(1)
    assert sum(item["score"] for item in first["answer"]["combinations"]) <= 1
    metrics = json.loads((tmp_path / "annotation" / "metrics.json").read_text())
    assert metrics["samples"] == {"answered": 4, "skipped": 2, "with_label": 4, "with_verb": 4, "with_noun": 3}
    assert {"verb_top_1", "noun_class_mean_top_5_recall", "action_top_5", "action_each_in_top_5"} <= set(
        metrics["scores"]
    )
    assert set(metrics["tags"]) == {"unseen", "tail_noun"}
    run_example("evaluate.py", *words, "--output_dir", tmp_path / "generic")
    recipe = json.loads((tmp_path / "generic" / "recipe.json").read_text())
    assert recipe["questions"] == "generic" and recipe["hide_words"] is False
    results = [tmp_path / "annotation", tmp_path / "generic"]
    folder = save_checkpoint(tmp_path / "shown", load_model(base), None, results=results)
    card = (folder / "README.md").read_text()
    assert "questions: **annotation, words of labels hidden**" in card and "questions: **generic**" in card
    assert card.count("the scores are upper bounds, not what the model does on new clips") == 1
    assert "| test | verb top-1 accuracy |" in card and "| `noun` | 2 |" in card and "4 x 3 views" in card
