"""Training, predictions, low-rank updates and cached features of H-MBA on vision-language models of transformers."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig

from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration, HMBAVLMModel, HMBAVLMProcessor
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.feature_cache.reading import CachedSamples, FeatureCache
from hmba_hf.data.micro_world.world import MicroWorld
from hmba_hf.evaluation.scoring import ScoredRecords
from hmba_hf.families import family_of
from hmba_hf.metrics.bootstrap import Bootstrap
from hmba_hf.tasks.answering.collator import SampleCollator, to_conversation
from hmba_hf.tasks.answering.features import frame_features
from hmba_hf.tasks.answering.generation import answer_samples
from hmba_hf.tasks.answering.pictures import draw_answered
from hmba_hf.tasks.answering.records import check_record, reading_record, sample_record
from hmba_hf.training.arguments import CHECKPOINTING
from hmba_hf.training.parts import learn
from tiny_bases import tune
from tiny_models import tiny_text
from tiny_runs import run_script
from tiny_vlm_bases import save_vlm, tiny_vlm

EXAMPLES = Path(__file__).parents[1] / "examples"
WORLD = MicroWorld()
SQUARE = ["--boxes_dialect", "unit_square"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_vlm("qwen3_vl", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    """A run that puts an adapter on the base and trains it with the language model."""
    folder = tmp_path_factory.mktemp("adapted")
    words = ["--branches", "temporal", "--num_frames", 4, "--learns", "adapter", "language_model"]
    return tune(base, folder, *SQUARE, *words, "--max_steps", 6, "--save_strategy", "no"), folder


@pytest.fixture
def call(monkeypatch, capsys):
    """Run an example inside this process and return what it prints."""

    def run_here(script, *words):
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        run_script(EXAMPLES / script)
        return capsys.readouterr().out

    return run_here


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def processor_of(base, dialect="unit_square"):
    return HMBAVLMProcessor.from_base_pretrained(base, boxes_dialect=dialect)


def opened(base, **options):
    """A model whose adapter is not the identity."""
    torch.manual_seed(0)
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(base, **options)
    torch.nn.init.normal_(model.model.temporal_adapter.gate, std=0.5)
    return model


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_vision_language_model_gets_an_adapter_which_learns_with_its_language_model(base, adapted):
    trainer, folder = adapted
    assert losses(trainer)[-1] < losses(trainer)[0] - 1
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert (model.config.branches, model.config.num_frames) == (["temporal"], 4)
    processor = AutoProcessor.from_pretrained(folder)
    assert (processor.video_processor.num_frames, processor.boxes_dialect) == (4, "unit_square")
    family = family_of(model)
    held = load_file(Path(base) / "model.safetensors")
    moved = set()
    for name, weight in model.model.base.state_dict().items():
        if not torch.equal(weight, held[name]):
            moved.add(family.part_of(f"model.base.{name}"))
    assert moved == {"language_model"} and bool(model.model.temporal_adapter.gate.any())


def test_the_adapter_alone_learns_where_nothing_else_is_said(base, tmp_path):
    for name, option in (("plain", []), ("thrifty", [f"--{CHECKPOINTING}", "True"])):
        trainer = tune(base, tmp_path / name, *SQUARE, *option, "--max_steps", 3, "--save_strategy", "no")
        learning = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
        assert learning and all(name.startswith("model.temporal_adapter.") for name in learning)
    plain, thrifty = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("plain", "thrifty"))
    assert plain["arguments"]["learns"] == ["adapter"]
    assert [loss for _, loss in thrifty["loss"]] == pytest.approx([loss for _, loss in plain["loss"]], rel=1e-6)


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(base, tmp_path):
    words = [*SQUARE, "--learns", "adapter", "lora", "--lora_rank", 2, "--lora_dropout", 0.1]
    words += ["--max_steps", 4, "--save_steps", 2, "--save_total_limit", 9]
    whole = tune(base, tmp_path / "whole", *words)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    (tmp_path / "again" / "checkpoint-4" / "seal.json").unlink()  # half written
    again = tune(base, tmp_path / "again", *words)
    assert losses(again) == losses(whole)
    assert_equal(*(load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "whole")))


def test_low_rank_updates_reach_the_language_model_alone_and_load_on_the_base_with_its_adapter(base, tmp_path, call):
    words = [*SQUARE, "--learns", "adapter", "lora", "--lora_rank", 2, "--save_strategy", "no"]
    trainer = tune(base, tmp_path / "out", *words, "--max_steps", 4)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.3
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    parts = {name.removeprefix("base_model.model.").rsplit(".", 1)[0] for name in saved}
    updated = {name for name in parts if "lora_" in name}
    assert updated and all(name.startswith("model.base.model.language_model.layers.") for name in updated)
    assert all(name.startswith("model.temporal_adapter") for name in parts - updated)
    batch = SampleCollator(trainer.processing_class)([WORLD[0], WORLD[1]])
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    adapted = AutoModelForImageTextToText.from_pretrained(tmp_path / "out" / "adapted_base")
    wrapped = peft.PeftModel.from_pretrained(adapted, tmp_path / "out").eval()
    with torch.no_grad():
        wanted = trainer.model.eval()(**batch).logits
        for model in (loaded, wrapped):
            torch.testing.assert_close(model(**batch).logits, wanted)
    further = tune(tmp_path / "out", tmp_path / "further", *words, "--max_steps", 1)
    assert losses(further)[0] < losses(trainer)[0] - 0.3, "the updates are trained further"
    options = ["--max_samples", 2, "--max_new_tokens", 2, "--output_dir", tmp_path / "test"]
    assert "predictions: " in call("predict.py", "--model", tmp_path / "out", *options)


def test_a_tuned_model_answers_and_is_scored(adapted, tmp_path, call):
    _, folder = adapted
    options = ["--max_samples", 3, "--batch_size", 2, "--max_new_tokens", 4, "--tokenizer", "words", "--draws", 10]
    printed = call("evaluate.py", "--model", folder, *options, "--output_dir", tmp_path)
    assert "mean_iou" in printed and "picked" in printed
    records = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [record["size"] for record in records] == [[64, 64]] * 3, "frames are as the micro-world draws them"
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    world = MicroWorld(replace(WORLD.config, num_frames=4), "test")
    clips = [world[index] for index in range(3)]
    assert processor.video_processor.num_frames == 4 != WORLD.config.num_frames
    wanted = answer_samples(model, processor, clips, batch_size=2, max_new_tokens=4)
    assert [record["answer"] for record in records] == wanted


def test_cached_features_give_the_losses_of_pixels_and_no_earlier_frame_is_encoded(base, tmp_path, call, monkeypatch):
    folder = tmp_path / "model"
    opened(base).save_pretrained(folder)
    processor_of(base).save_pretrained(folder)
    cache = ["--output_dir", tmp_path / "cache", "--use_cpu", "--max_train_samples", 6, "--block_size", 4]
    printed = call("cache_features.py", "--model", base, *cache)  # no feature depends on the adapter
    assert "6 samples: 6 clips made, 6 in" in printed
    words = ["--max_steps", 3, "--max_train_samples", 6, "--save_strategy", "no"]
    plain = losses(tune(folder, tmp_path / "plain", *words))
    encoded = []
    encode = HMBAVLMModel.get_image_features

    def note(self, **pictures):
        encoded.append(pictures)
        return encode(self, **pictures)

    monkeypatch.setattr(HMBAVLMModel, "get_image_features", note)
    cached = losses(tune(folder, tmp_path / "cached", *words, "--feature_cache", tmp_path / "cache"))
    assert cached == pytest.approx(plain, abs=2e-6)
    assert len(encoded) == 3, "the current frames of each batch, and no others"
    with pytest.raises(ValueError, match="stale .*max_seconds must be '9.0', got None"):
        tune(folder, tmp_path / "out", *words, "--feature_cache", tmp_path / "cache", "--max_seconds", 9)
    with pytest.raises(ValueError, match="features of a vision tower that learns cannot be cached"):
        tune(folder, tmp_path / "out", *words, "--feature_cache", tmp_path / "cache", "--learns", "vision")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    with torch.no_grad():
        next(weight for name, weight in model.named_parameters() if family_of(model).part_of(name) == "vision").add_(1)
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="stale .*base must be"):
        tune(folder, tmp_path / "out", *words, "--feature_cache", tmp_path / "cache")


def test_features_do_not_depend_on_the_language_model(base):
    model = opened(base)
    features = frame_features(model, processor_of(base))
    key = features.key(torch.float32)
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    torch.nn.init.zeros_(model.model.temporal_adapter.gate)
    assert features.key(torch.float32) == key
    assert not any("text" in name for name in key)


@pytest.mark.parametrize("kind", ["gemma3", "lfm2_vl", "llava_onevision"])
def test_features_of_clips_of_unlike_sizes_stand_for_their_frames_in_each_container_of_a_base(kind, tmp_path):
    vlm = tiny_vlm(kind)
    torch.manual_seed(0)
    model = HMBAVLMForConditionalGeneration(HMBAVLMConfig(base_config=vlm.model.config)).eval()
    model.model.base.load_state_dict(vlm.model.state_dict())
    torch.nn.init.normal_(model.model.temporal_adapter.gate, std=0.5)
    wide = replace(WORLD[1], frames=[frame.resize((96, 64)) for frame in WORLD[1].frames], size=None)
    samples = [WORLD[0], wide, WORLD[2], WORLD.still_sample(1)]
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="unit_square")
    features = frame_features(model, processor)
    bad = BadSamples("stop", tmp_path / "bad_samples.jsonl")
    assert features.writer(folder=tmp_path, bad=bad, batch_size=3).write(samples) == {"made": 4, "cache": 4}
    read = CachedSamples(samples, FeatureCache(tmp_path, features.key(torch.float32)))
    assert [len(sample.frame_features) for sample in read] == [5, 5, 5, 1]
    collator = SampleCollator(processor)
    with torch.no_grad():
        wanted = model(**collator(samples)).logits
        found = model(**collator([read[index] for index in range(4)])).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


QUANTISED = BitsAndBytesConfig(load_in_4bit=True)


@pytest.mark.parametrize(
    "options", [{"dtype": torch.bfloat16}, {"quantization_config": QUANTISED}], ids=["bf16", "4bit"]
)
def test_a_small_base_has_an_adapter_in_float32_that_learns_and_is_saved_and_loaded(base, tmp_path, options):
    model = opened(base, **options)
    held = {name: weight.clone() for name, weight in model.model.base.state_dict().items()}
    learning, counts = learn(model, ["adapter"])
    assert {parameter.dtype for parameter in model.model.temporal_adapter.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in model.model.base.parameters()} & {torch.bfloat16, torch.uint8}
    batch = SampleCollator(processor_of(base))([WORLD[0], WORLD[1]])
    optimizer = torch.optim.SGD([p for p in learning.parameters() if p.requires_grad], lr=0.5)
    found = []
    for _ in range(3):
        loss = learning.train()(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss))
    assert found[-1] < found[0] and counts["adapter"] > 0
    assert_equal(model.model.base.state_dict(), held)
    model.eval().save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert_equal(loaded.state_dict(), model.state_dict())
    answers = [answer_samples(one, processor_of(base), [WORLD[2]], max_new_tokens=3) for one in (model, loaded)]
    assert answers[0] == answers[1]


def test_low_rank_updates_of_weights_in_4_bits_leave_tower_and_head_as_they_are(base, tmp_path):
    words = [*SQUARE, "--learns", "adapter", "qlora", "--lora_rank", 2, "--save_strategy", "no"]
    trainer = tune(base, tmp_path, *words, "--max_steps", 3)
    assert losses(trainer)[-1] < losses(trainer)[0] - 0.3
    small = {name for name, weight in trainer.model.named_parameters() if weight.dtype == torch.uint8}
    assert len(small) == 2 * 7, "each linear layer of two blocks"
    assert all(".language_model.layers." in name for name in small)


def test_a_part_that_is_all_that_others_are_not_learns_beside_low_rank_updates(base):
    model, counts = learn(opened(base), ["vision", "lora"])
    assert counts.keys() == {"vision", "lora"} and all(counts.values())
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    whole = {name for name in learning if "lora_" not in name}
    assert all(".visual.modules_to_save." in name for name in whole)
    assert len(whole) == sum(1 for name, _ in opened(base).named_parameters() if ".visual." in name)


@pytest.mark.parametrize("dialect", ["pixels", "thousand_yx", "loc"])
def test_targets_are_written_and_answers_scored_in_the_dialect_of_the_base(base, dialect, tmp_path):
    sample = WORLD[0]
    processor = processor_of(base, dialect)
    question, answer = to_conversation(sample, processor)
    asked = question["content"][1]["text"]
    written = answer["content"][0]["text"]
    assert sample.question in asked and (asked != sample.question)
    assert "[0." not in written, "no fractions of a square"
    record = {**sample_record(sample), **reading_record(sample, processor), "answer": written}
    check_record(record)
    record = json.loads(json.dumps({**record, "split": "test", "error": None, "index": 0}))
    scores = ScoredRecords([record], Bootstrap(draws=2), tokenizer="words").scores()["scores"]
    assert scores["mean_iou"] > 0.85 and scores["picked"] == 1.0
    assert scores["bleu_1"] == pytest.approx(1), "the box is no word of the caption"
    assert draw_answered(sample, written, processor, "H-MBA").width > 64


def test_a_base_whose_boxes_are_unknown_needs_its_dialect_named(tmp_path):
    base = save_vlm("llava", tmp_path / "base")
    with pytest.raises(ValueError, match="boxes_dialect must be named for a base .*, one of .*'unit_square'"):
        tune(base, tmp_path / "out", "--max_steps", 1)
    with pytest.raises(ValueError, match="boxes_dialect must be one of .*, got 'shikra'"):
        tune(base, tmp_path / "out", "--max_steps", 1, "--boxes_dialect", "shikra")


def test_options_of_another_family_are_refused_by_name(base, tmp_path):
    with pytest.raises(ValueError, match=r"what learns must be of \['adapter', .*'vision'\], got \['projector'\]"):
        tune(base, tmp_path / "out", "--max_steps", 1, "--learns", "projector")


def test_low_rank_updates_of_a_base_without_an_adapter_are_to_be_merged_first(base, tmp_path):
    vlm = AutoModelForImageTextToText.from_pretrained(base)
    peft.get_peft_model(vlm, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "updates")
    with pytest.raises(ValueError, match="must hold low-rank updates of a model with an adapter, .*merge_and_unload"):
        tune(tmp_path / "updates", tmp_path / "out", *SQUARE, "--max_steps", 1)


def test_a_model_that_reads_no_pictures_is_refused(tmp_path):
    AutoModelForCausalLM.from_config(tiny_text()).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="model_type must be of .*'hmba_vlm', .* got 'llama'"):
        tune(tmp_path / "text", tmp_path / "out", "--max_steps", 1)
