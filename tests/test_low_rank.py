"""Low-rank updates of the language model, on weights as they are or in 4 bits: what they touch, how they load."""

import hashlib
import re
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel, pipeline

from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.families import FAMILIES, Family, load_model, register_family
from hmba_hf.installation import install_command
from hmba_hf.quantisation import quantising_options
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.training import ResumableTrainer, learn
from hmba_hf.training.arguments import ResumableArguments
from hmba_hf.training.parts import LoraSettings, quantization_config
from tiny_bases import save_base, tune
from tiny_models import FAMILY, part_of, tiny_text

WORLD = MicroWorldConfig(frame_size=32)


@pytest.fixture(scope="module")
def wide_base(tmp_path_factory):
    """A base with an adapter, its language model of whole blocks of 64 weights, which share a scale in 4 bits."""
    torch.manual_seed(0)
    text = tiny_text(hidden_size=64, intermediate_size=128)
    return save_base(tmp_path_factory.mktemp("wide_base"), adapter="mamba", text_config=text)


def hashes(model):
    digest = hashlib.sha256
    return {name: digest(tensor.numpy().tobytes()).hexdigest() for name, tensor in model.state_dict().items()}


def own_hashes(peft_model):
    """Hashes of what is under low-rank updates, by the names of the base."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", "."): value
        for name, value in hashes(peft_model).items()
        if "lora_" not in name and ".modules_to_save." not in name
    }


@pytest.mark.parametrize("tied", [False, True])
def test_low_rank_updates_touch_what_they_name_alone_and_load_in_every_way(tmp_path, tied):
    base = save_base(tmp_path / "base", adapter="mamba", tie_word_embeddings=tied)
    before = hashes(AutoModelForImageTextToText.from_pretrained(base))
    words = ["--learns", "adapter", "lora", "--lora_targets", "q_proj", "v_proj", "--lora_rank", 4, "--max_steps", 3]
    trainer = tune(base, tmp_path / "out", *words)
    assert own_hashes(trainer.model) == before, "the base is as it was, to the bit"
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    updated = {re.search(r"\.([a-z_]+)\.lora_[AB]\.weight", name)[1] for name in saved if "lora" in name}
    assert updated == {"q_proj", "v_proj"} and {part_of(name) for name in saved} == {"adapter", "language_model"}
    assert not [name for name in saved if "embed_tokens" in name or "lm_head" in name]
    adapter = sum(tensor.numel() for name, tensor in saved.items() if part_of(name) == "adapter")
    assert sum(tensor.numel() for tensor in saved.values()) == adapter + 2 * 2 * 4 * (32 + 32)
    assert not (tmp_path / "out" / "adapted_base").exists(), "the base had the adapter that it was asked for"

    batch = SampleCollator(trainer.processing_class)([MicroWorld(WORLD, "test", 1)[0]])
    with torch.no_grad():
        wanted = trainer.model.eval()(**batch).logits
        fresh = AutoModelForImageTextToText.from_pretrained(base)
        assert not torch.allclose(fresh(**batch).logits, wanted, atol=1e-3)
        peft_model = PeftModel.from_pretrained(fresh, tmp_path / "out")
        loaded = AutoModelForImageTextToText.from_pretrained(base)
        loaded.load_adapter(tmp_path / "out")
        pipe = pipeline("video-text-to-text", model=str(tmp_path / "out"))
        for model in (peft_model, loaded, pipe.model):
            torch.testing.assert_close(model.eval()(**batch).logits, wanted, rtol=0, atol=2e-6)
        merged = peft_model.merge_and_unload()
        torch.testing.assert_close(merged.eval()(**batch).logits, wanted, rtol=0, atol=2e-6)


def test_low_rank_updates_beside_a_new_adapter_bring_a_base_of_their_own(base, tmp_path, capsys, monkeypatch):
    words = ["--adapter", "mamba", "--num_frames", 8, "--learns", "adapter", "projector", "lora", "--max_steps", 2]
    monkeypatch.chdir(tmp_path)
    trainer = tune(base, "out", *words)
    assert "low-rank updates belong to a base of their own" in capsys.readouterr().out
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pipe = pipeline("video-text-to-text", model=str(tmp_path / "out"))
    assert pipe.model.config.num_frames == pipe.processor.video_processor.num_frames == 8
    batch = SampleCollator(trainer.processing_class)([MicroWorld(WORLD, "test", 1)[0]])
    with torch.no_grad():
        logits = pipe.model(**batch).logits
        torch.testing.assert_close(logits, trainer.model.eval()(**batch).logits, rtol=0, atol=2e-6)


def test_a_run_of_low_rank_updates_goes_on_elsewhere_and_never_takes_the_users_base(base, tmp_path):
    words = ["--adapter", "mamba", "--learns", "adapter", "lora", "--save_steps", 2]
    tune(base, tmp_path / "one", *words, "--max_steps", 2)
    again = ["--resume_from_checkpoint", tmp_path / "one" / "checkpoint-2"]
    assert tune(base, tmp_path / "two", *words, "--max_steps", 3, *again).state.global_step == 3
    shutil.copytree(base, tmp_path / "runs" / "adapted_base")
    before = hashes(AutoModelForImageTextToText.from_pretrained(base))
    with pytest.raises(ValueError, match="must be in a folder of its own, got .*adapted_base, where this run saves"):
        tune(tmp_path / "runs" / "adapted_base", tmp_path / "runs", *words, "--max_steps", 2)
    assert hashes(AutoModelForImageTextToText.from_pretrained(tmp_path / "runs" / "adapted_base")) == before


QLORA = ["--learns", "adapter", "projector", "qlora", "--lora_dropout", 0.1, "--save_steps", 2]


def test_low_rank_updates_of_weights_in_4_bits_leave_them_and_load_on_them_and_on_the_base(wide_base, tmp_path):
    loading = {"quantization_config": quantization_config(FAMILY), "device_map": "cpu"}
    quantised = AutoModelForImageTextToText.from_pretrained(wide_base, **loading)
    held = {name: p.dtype for name, p in quantised.named_parameters() if not p.is_floating_point()}
    assert set(held.values()) == {torch.uint8} and len(held) == 2 * 7, "each linear layer of two blocks"
    assert {part_of(name) for name in held} == {"language_model"} and "lm_head.weight" not in held
    before = hashes(quantised)
    words = [*QLORA, "--max_steps", 6, "--eval_strategy", "steps", "--eval_steps", 3, "--max_eval_samples", 2]
    trainer = tune(wide_base, tmp_path / "out", *words, "--max_new_tokens", 2)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1
    assert own_hashes(trainer.model) == before, "the base is as it was, to the bit"
    saved = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())
    assert {part_of(name) for name in saved} == {"adapter", "projector", "language_model"}

    batch = SampleCollator(trainer.processing_class)([MicroWorld(WORLD, "test", 1)[0]])
    with torch.no_grad():
        wanted = trainer.model.eval()(**batch).logits
        learned = (wanted - quantised.eval()(**batch).logits).norm()
        loaded = PeftModel.from_pretrained(quantised, tmp_path / "out").eval()(**batch).logits
        assert (loaded - wanted).norm() < 0.02 * learned, "some CPUs round scales for inference"
        bits = quantising_options(tmp_path / "out", "bnb-4bit")
        small = load_model(tmp_path / "out", **bits).eval()(**batch).logits
        assert (small - wanted).norm() < 0.02 * learned
        whole = pipeline("video-text-to-text", model=str(tmp_path / "out")).model(**batch).logits
    rounding = (whole - wanted).norm()
    assert 0 < rounding < learned / 2, "on the base as it is they differ by what 4 bits leave out"


def test_a_run_on_weights_in_4_bits_goes_on_as_if_it_had_not_been_stopped(wide_base, tmp_path):
    tune(wide_base, tmp_path / "whole", *QLORA, "--max_steps", 4, "--save_total_limit", 2)
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-4")
    again = tune(wide_base, tmp_path / "again", *QLORA, "--max_steps", 4, "--save_total_limit", 2)
    assert again.state.global_step == 4
    found, wanted = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("again", "whole"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_in_4_bits_learn_by_low_rank_updates_alone(wide_base):
    loading = {"quantization_config": quantization_config(FAMILY), "device_map": "cpu"}
    quantised = AutoModelForImageTextToText.from_pretrained(wide_base, **loading)
    with pytest.raises(
        ValueError, match="what learns must hold floating point numbers, got torch.uint8 in model.lang"
    ):
        learn(quantised, ["language_model"])


class PairConfig(PreTrainedConfig):
    model_type = "pair"


class PairModel(PreTrainedModel):
    """A text encoder, layers that fuse it with a video, and a head."""

    config_class = PairConfig

    def __init__(self, config):
        super().__init__(config)
        self.text = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4), "mlp": torch.nn.Linear(4, 4)})
        self.fusion = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(4, 4), "norm": torch.nn.LayerNorm(4)})
        self.gate = torch.nn.Linear(4, 1)
        self.head = torch.nn.Linear(4, 2)
        self.table = torch.nn.Parameter(torch.zeros(3, 4))
        self.post_init()


PAIR = Family(
    model_type="pair",
    name="Pair",
    task="answering",
    auto_class="AutoModel",
    parts={"text": ("text.", "fusion.", "gate.", "head.")},
    pipeline_tag="video-classification",
    card="hmba.md",
    no_weight_decay=("table",),
    low_rank_part="text",
    no_low_rank=("head.",),
)


@pytest.fixture
def pair():
    """A model whose low-rank part is several modules, of a family that is forgotten afterwards."""
    register_family(PAIR)
    yield PairModel(PairConfig())
    FAMILIES.remove(PAIR)


@pytest.mark.parametrize(
    ("targets", "updated"),
    [
        ((), {"text.q_proj", "text.mlp", "fusion.q_proj", "gate"}),
        (("q_proj",), {"text.q_proj", "fusion.q_proj"}),
        (("gate", "mlp"), {"text.mlp", "gate"}),
    ],
)
def test_low_rank_updates_reach_all_modules_of_their_part_but_those_that_the_family_spares(pair, targets, updated):
    model, counts = learn(pair, ["lora"], LoraSettings(rank=2, targets=targets))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {re.search(r"model\.model\.(.+)\.lora_[AB]", name)[1] for name in names} == updated
    outputs = {name: 1 if name == "gate" else 4 for name in updated}
    assert counts == {"lora": sum(2 * (4 + size) for size in outputs.values())}


def test_targets_outside_of_the_updated_modules_are_refused(pair):
    with pytest.raises(ValueError, match=r"layers of text, fusion, gate, \['gate', 'mlp', 'q_proj'\], got \['head'\]"):
        learn(pair, ["lora"], LoraSettings(targets=["head"]))


def test_weights_in_4_bits_are_those_that_get_updates():
    assert quantization_config(PAIR).llm_int8_skip_modules == ["head"]


def test_a_family_spares_no_module_outside_of_its_low_rank_part():
    with pytest.raises(ValueError, match=r"no_low_rank must be of \['text.', .*\], .* got \['hat.'\]"):
        register_family(PAIR._replace(no_low_rank=("hat.",)))
    with pytest.raises(ValueError, match=r"low_rank_part must be of \['text'\], got 'hat'"):
        register_family(PAIR._replace(low_rank_part="hat"))


def test_a_family_names_what_weight_decay_spares_besides_vectors(pair, tmp_path):
    trainer = ResumableTrainer(model=pair, args=ResumableArguments(output_dir=str(tmp_path), use_cpu=True))
    matrices = {name for name, parameter in pair.named_parameters() if parameter.ndim > 1}
    assert set(trainer.get_decay_parameter_names(pair)) == matrices - {"table"}


def test_quantised_low_rank_updates_say_what_they_need(base, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape(f"in 4 bits (qlora) need `{install_command('qlora')}`")):
        tune(base, tmp_path / "out", "--learns", "projector", "qlora", "--max_steps", 1)
