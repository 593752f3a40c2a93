"""The language model in fewer bits, at every door, with all other parts as they were, to the bit.

`make test-torchao` runs this with `HMBA_QUANTIZATIONS=torchao-int8`, whose package is in no extra.
"""

import os

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoProcessor, pipeline

import hmba_hf.commands.describe as describing
from hmba_hf import HMBAVLMProcessor, VideoStream
from hmba_hf.commands.parsing import add_loading_options, command_parser, loading_options
from hmba_hf.digests import digest_weights, fingerprint
from hmba_hf.families import FAMILIES, family_of, load_model
from hmba_hf.installation import install_command
from hmba_hf.quantisation import QUANTIZATIONS, build_quantization_config, quantising_options
from hmba_hf.tasks.answering.prediction import PredictionArguments, predict
from tiny_hmba_vlm import model_on
from tiny_models import FAMILY, lively_model, tiny_inputs, tiny_text
from tiny_processors import tiny_processor
from tiny_server import NAME, asking, client_of, data_url, drawn_video, running
from tiny_vlm_bases import tiny_vlm

WAYS = os.environ.get("HMBA_QUANTIZATIONS", "bnb-4bit bnb-8bit").split()
QUESTION = "Which object is the risk?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An H-MBA whose language model has whole blocks of weights, which share a scale, and its processor."""
    folder = tmp_path_factory.mktemp("whole")
    lively_model(text_config=tiny_text(hidden_size=64, intermediate_size=128)).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def on_vlm(tmp_path_factory):
    """The same of an H-MBA on a vision-language model."""
    folder = tmp_path_factory.mktemp("on_vlm")
    vlm = tiny_vlm("qwen3_vl")
    model_on(vlm).save_pretrained(folder)
    HMBAVLMProcessor(vlm.processor, boxes_dialect="unit_square").save_pretrained(folder)
    return folder


def load(folder, way):
    return load_model(folder, **quantising_options(folder, way)).eval()


def answer(model):
    with torch.no_grad():
        return model(**tiny_inputs()).logits


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["folder", "on_vlm"])
def test_all_but_the_layers_of_the_language_model_are_whole_to_the_bit(kind, way, request):
    folder = request.getfixturevalue(kind)
    plain = load_model(folder).state_dict()
    model = load(folder, way)
    family = family_of(model)
    changed = set()
    for name, weight in model.named_parameters():
        held = plain[name]
        if type(weight.data) is torch.Tensor and weight.dtype == held.dtype and torch.equal(weight, held):
            continue
        changed.add(name)
    assert changed and {family.part_of(name) for name in changed} == {"language_model"}
    layers = [name for name in plain if name.endswith("_proj.weight") and family.part_of(name) == "language_model"]
    assert changed == set(layers), "each linear layer, and neither embeddings nor the head"


@pytest.mark.parametrize("way", WAYS)
def test_a_quantised_model_is_saved_and_loaded_with_the_same_logits_also_after_answers_and_again(
    way, folder, tmp_path
):
    model = load(folder, way)
    torch.manual_seed(0)
    wanted = answer(model)
    assert wanted.isfinite().all()
    digests = fingerprint(model), digest_weights(model, torch.float32)
    for number in range(2):
        model.save_pretrained(tmp_path / str(number))
        for loaded in (model, load_model(tmp_path / str(number)).eval()):
            torch.manual_seed(0)
            assert_close(answer(loaded), wanted, rtol=1e-4, atol=1e-4)
        model = loaded
        assert (fingerprint(model), digest_weights(model, torch.float32)) == digests


@pytest.mark.parametrize("way", WAYS)
def test_the_pipeline_the_stream_and_the_server_have_the_same_answer_of_a_quantised_model(way, folder):
    options = quantising_options(folder, way)
    pipe = pipeline("video-text-to-text", model=str(folder), model_kwargs=options)
    frames = [Image.new("RGB", (40, 20), (40 * i, 90, 255 - 40 * i)) for i in range(5)]
    (wanted,) = pipe(videos=frames, text=QUESTION, max_new_tokens=6)
    stream = VideoStream(load(folder, way), pipe.processor)
    for i, frame in enumerate(frames):
        stream.push(frame, i / stream.fps)
    assert stream.ask(QUESTION, max_new_tokens=6)["generated_text"] == wanted["generated_text"]
    video = drawn_video()
    (wanted,) = pipe(videos=video, text=QUESTION, max_new_tokens=6)
    with running(model=load(folder, way), processor=AutoProcessor.from_pretrained(folder)) as service:
        chat = client_of(service).chat.completions
        completion = chat.create(model=NAME, messages=asking(data_url(video)), max_tokens=6)
    assert completion.choices[0].message.content == wanted["generated_text"]


@pytest.mark.parametrize("way", WAYS)
def test_commands_describe_and_predict_with_a_quantised_model(way, stored_model, tmp_path, monkeypatch):
    loaded = []

    def note(*args, **options):
        loaded.append(pipeline(*args, **options))
        return loaded[0]

    monkeypatch.setattr(describing, "pipeline", note)
    (tmp_path / "clip.mp4").write_bytes(drawn_video())
    words = ["--video", str(tmp_path / "clip.mp4"), "--output", str(tmp_path / "page.png"), "--max_new_tokens", "3"]
    describing.main(["--model", str(stored_model), "--quantization", way, *words])
    assert loaded[0].model.is_quantized and (tmp_path / "page.png").exists()
    options = {"model": str(stored_model), "max_samples": 2, "max_new_tokens": 3, "device_map": "cpu"}
    whole = PredictionArguments(**options)
    small = PredictionArguments(**options, quantization=way, output_dir=str(tmp_path))
    assert len(predict(small).read_text().splitlines()) == 2
    assert "quantization" not in whole.recipe() and small.recipe() == {**whole.recipe(), "quantization": way}


@pytest.mark.parametrize("way", WAYS)
def test_every_command_that_loads_a_model_reads_the_option_in_one_way(way, folder):
    parser = command_parser(program="hmba any", description=None)
    add_loading_options(parser)
    parser.add_argument("--model")
    (args,) = parser.parse_args_into_dataclasses(["--model", str(folder), "--quantization", way])
    options = loading_options(args)
    assert options.keys() == {"dtype", "device_map", "quantization_config"}
    assert load_model(folder, **options).is_quantized


def test_a_checkpoint_that_is_quantised_is_not_quantised_again(folder, tmp_path):
    load(folder, WAYS[0]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="quantization must be absent for a checkpoint that is quantised, got 'bnb-8"):
        quantising_options(tmp_path, "bnb-8bit")
    assert quantising_options(tmp_path, None) == {}


@pytest.mark.parametrize("family", [row for row in FAMILIES if row.low_rank_part is None], ids=lambda row: row.task)
def test_families_without_a_language_model_are_refused_by_name(family):
    wanted = f"quantization must be absent for a {family.name}, which has no language model .*, got 'bnb-4bit'"
    with pytest.raises(ValueError, match=wanted):
        build_quantization_config("bnb-4bit", family)


def test_an_unknown_quantisation_is_refused_with_those_that_there_are(folder):
    with pytest.raises(ValueError, match=r"quantization must be of \['bnb-4bit', .*\], got '4bit'"):
        quantising_options(folder, "4bit")


@pytest.mark.parametrize("way", QUANTIZATIONS)
def test_a_missing_package_is_one_sentence_with_its_command(way, folder, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    command = "pip install torchao" if way == "torchao-int8" else install_command("quantised")
    with pytest.raises(ImportError) as raised:
        build_quantization_config(way, FAMILY)
    assert str(raised.value) == f"quantization {way!r} needs `{command}`"
