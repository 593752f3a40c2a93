"""MambaVL by the command line: equal to the original's numbers, there and back without loss."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForVideoClassification, AutoProcessor, CLIPVisionModel

from hmba_hf import MambaVLConfig, MambaVLForVideoClassification, MambaVLVisionModel
from hmba_hf.conversion import mambavl_names
from hmba_hf.conversion.checkpoint_folders import blank_model, wanted_tensors
from hmba_hf.conversion.mambavl_names import fusion_rules, parts_of_attention, vision_rules
from hmba_hf.conversion.mambavl_plans import text_config, vision_config
from hmba_hf.conversion.mambavl_sizes import read_fusion_sizes, read_vision_sizes
from hmba_hf.conversion.original_mambavl import original_avion, original_mambavl
from hmba_hf.conversion.rename_keys import TensorSpec, plan_renaming
from hmba_hf.conversion.tensor_files import FileTensors
from hmba_hf.conversion.tensor_sources import Change, ChangedTensors, MemoryTensors, SplitTensors
from mambavl_files import (
    HEADS,
    avion,
    avion_shapes,
    convert,
    fusion_shapes,
    recorded_fusion,
    save_pyth,
    unread_tensors,
)
from tiny_mambavl import Table, tiny_model, tiny_vision_config
from tiny_questions import tiny_question_tokenizer
from videomamba_files import assert_identical

GOLDEN = Path(__file__).parent / "golden" / "mambavl_fusion_small.safetensors"
AVION = ["--num_attention_heads", 2]
UNREAD = "B_log", "text_model.embeddings.position_ids", "text_model.encoder.layer.0.output", "text_model.pooler"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a tokenizer that fits the files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_question_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def write(golden, tmp_path):
    """Write a file of the fusion and more, and return its path and its weights."""

    def write(more=None, prefix="", **changes):
        weights = {**recorded_fusion(golden), **(more or {}), **changes}
        weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
        return save_pyth(tmp_path / "checkpoint_epoch_00035.pyth", weights, prefix), weights

    return write


@pytest.fixture
def made(write, tokenizer, tmp_path):
    """Convert a file, and return the folder and the weights."""

    def made(*options, name="ours", **content):
        path, weights = write(**content)
        return convert(path, tmp_path / name, "--tokenizer", tokenizer, *options), weights

    return made


@pytest.fixture
def refused(write, tokenizer, tmp_path):
    """See that a conversion is refused and leaves nothing behind."""

    def refused(*options, match, error=ValueError, path=None, **content):
        path = path or write(**content)[0]
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(error, match=match):
            convert(path, tmp_path / "ours", "--tokenizer", tokenizer, *options)
        assert sorted(tmp_path.rglob("*")) == before

    return refused


def load(folder):
    model, info = AutoModelForVideoClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    return model.eval()


def read_texts(batch=2, length=6):
    """Questions of both heads, `(b, 2, l)`, of which the first ends with padding."""
    ids = torch.randint(2, 38, (batch, 2, length), generator=torch.Generator().manual_seed(4))
    ids[0, 0, -2:] = 1
    return ids


def clips(frames=4):
    return torch.rand(2, frames, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_fusion_gives_the_originals_logits_from_its_names_on(prefix, made, golden):
    folder, _ = made("--verify", GOLDEN, prefix=prefix, more=unread_tensors())
    model = load(folder)
    tensors, _ = golden("mambavl_fusion_small")
    questions = [tensors["in.verb_question_embeddings"], tensors["in.noun_question_embeddings"]]
    model.mambavl.text_model = Table(torch.cat([question.flatten(0, 1) for question in questions]))
    tokens = torch.arange(len(model.mambavl.text_model.tokens)).unflatten(0, (2, *questions[0].shape[:2]))
    outputs = model(video_features=tensors["in.video_features"], input_ids=tokens.transpose(0, 1))
    assert_close(outputs.verb_logits, tensors["out.verb_logits"], atol=1e-5, rtol=0)
    assert_close(outputs.noun_logits, tensors["out.noun_logits"], atol=1e-5, rtol=0)


def test_the_embeddings_of_texts_are_the_files(made):
    folder, weights = made()
    held = load(folder).mambavl.text_model.embeddings.state_dict()
    for name, tensor in held.items():
        assert torch.equal(tensor, weights[f"text_model.embeddings.{name}"]), name


def test_padding_is_read_and_weights_start_as_in_the_released_code(made):
    folder, weights = made()
    model = load(folder)
    assert model.config.initialization == "released"
    assert model.config.ignore_text_mask
    ids = read_texts()
    features = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(6))
    outputs = model(video_features=features, input_ids=ids, attention_mask=(ids != 1).long())
    wanted = original_mambavl(weights, features, {"verb": ids[:, 0], "noun": ids[:, 1]})
    assert_close(outputs.verb_logits, wanted["verb"], atol=1e-4, rtol=1e-5)
    assert_close(outputs.noun_logits, wanted["noun"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("flash", [True, False])
@pytest.mark.parametrize("frames", [4, 1])
def test_avions_video_model_is_converted_with_the_fusion(flash, frames, made, capsys):
    folder, weights = made(*AVION, "--verify", more=avion(flash=flash, frames=frames))
    assert "verified: the model reproduces the original's logits" in capsys.readouterr().out
    model = load(folder)
    assert isinstance(model.mambavl.vision_model, MambaVLVisionModel)
    vision = {name.removeprefix("orvit."): tensor for name, tensor in avion(frames=frames).items()}
    tokens = original_avion(vision, clips(frames), num_heads=2)
    assert tokens.shape == (2, 1 + frames * 4, 32)
    found = model.mambavl.get_video_features(clips(frames)).last_hidden_state
    assert_close(found, tokens, atol=1e-4, rtol=1e-5)
    ids = read_texts()
    wanted = original_mambavl(weights, tokens, {"verb": ids[:, 0], "noun": ids[:, 1]})
    assert_close(model(clips(frames), ids).verb_logits, wanted["verb"], atol=1e-3, rtol=1e-4)


def test_sizes_and_classes_are_the_files(made):
    config = load(made(*AVION, more=avion())[0]).config
    assert config.head_sizes == HEADS
    assert (config.hidden_size, config.state_size, config.conv_kernel, config.expand) == (32, 16, 4, 2)
    vision = config.vision_config
    assert (vision.num_frames, vision.image_size, vision.patch_size, vision.num_hidden_layers) == (4, 16, 8, 2)
    assert (vision.intermediate_size, vision.hidden_act, vision.layer_norm_eps) == (40, "gelu", 1e-6)
    text = config.text_config
    assert (text.vocab_size, text.hidden_size, text.max_position_embeddings, text.num_hidden_layers) == (60, 24, 50, 0)


@pytest.mark.parametrize(("width", "layers", "patch", "side"), [(768, 12, 16, 14), (1024, 24, 14, 16)])
def test_the_real_sizes_are_read_off_their_shapes(width, layers, patch, side):
    tower = {"layers": layers, "hidden": 4 * width, "patch": patch, "places": side**2, "frames": 16}
    shapes = fusion_shapes(width, heads={"verb": 97, "noun": 300}, words=50265, places=514)
    for name, shape in avion_shapes(width, **tower).items():
        shapes[f"orvit.{name}"] = shape
    specs = {name: TensorSpec(shape, torch.float32) for name, shape in shapes.items()}
    sizes = read_vision_sizes(specs, "orvit.")
    config = MambaVLConfig(
        vision_config=vision_config(sizes, None),
        text_config=text_config(read_fusion_sizes(specs)),
        heads=read_fusion_sizes(specs).heads,
    )
    assert config.vision_config.image_size == 224
    assert config.vision_config.num_attention_heads == width // 64
    model = blank_model(MambaVLForVideoClassification, config)
    parts = parts_of_attention(specs, "orvit.")
    kernel = (width, 3, patch, patch)
    blank = MemoryTensors({name: torch.empty(spec.shape, device="meta") for name, spec in specs.items()})
    changed = ChangedTensors(blank, {"orvit.conv1.weight": Change(kernel, lambda weight: weight)})
    plan_renaming(SplitTensors(changed, parts).specs, [*vision_rules(), *fusion_rules()], wanted_tensors(model))


@pytest.mark.parametrize("tower", [True, False])
def test_back_to_the_original_names_and_forth_again_nothing_is_lost(tower, made, tokenizer, tmp_path):
    options = AVION if tower else []
    more = {**unread_tensors(), **(avion() if tower else {})}
    folder, weights = made("--keep_unused", *options, more=more)
    back = convert(folder, tmp_path / "back", "--to_original", "--verify")
    assert_identical(load_file(back / "model.safetensors"), weights)
    again = convert(back, tmp_path / "again", "--tokenizer", tokenizer, *options)
    for file in ("model.safetensors", "config.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


def test_what_a_training_of_ours_saves_goes_back_to_the_original_names(made, tokenizer, tmp_path):
    folder, weights = made()
    model = load(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model.save_pretrained(tmp_path / "trained")
    back = load_file(convert(tmp_path / "trained", tmp_path / "back", "--to_original") / "model.safetensors")
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert_close(back[name], tensor + 1.0, atol=0, rtol=0)


def test_what_no_forward_reads_is_dropped_by_name(made, capsys):
    folder, _ = made(more=unread_tensors())
    printed = capsys.readouterr().out
    assert "not used and dropped: 4 tensors\n" in printed
    assert all(name in printed for name in UNREAD)
    assert "video model: none; the result reads video_features of 32 channels" in printed
    assert not any("B_log" in name or "encoder" in name for name in load_file(folder / "model.safetensors"))


def test_a_file_without_a_video_model_takes_that_of_a_file_of_avion(made, tmp_path):
    others = {f"module.{name}": tensor for name, tensor in avion("visual.", flash=False).items()}
    others["module.textual.ln_final.weight"] = torch.ones(4)
    others["module.logit_scale"] = torch.ones(())
    torch.save({"state_dict": others, "epoch": 4}, tmp_path / "avion.pt")
    folder, _ = made("--vision", tmp_path / "avion.pt", *AVION, "--verify")
    vision = {name.removeprefix("orvit."): tensor for name, tensor in avion().items()}
    found = load(folder).mambavl.get_video_features(clips()).last_hidden_state
    assert_close(found, original_avion(vision, clips(), num_heads=2), atol=1e-4, rtol=1e-5)
    assert "Its video model is that of `avion.pt`" in (folder / "README.md").read_text()


@pytest.mark.parametrize("frames", [3, 9])
def test_a_video_model_of_avion_is_fitted_to_clips_of_another_length(frames, made, tmp_path):
    torch.save({"state_dict": avion("visual.")}, tmp_path / "avion.pt")
    folder, _ = made("--vision", tmp_path / "avion.pt", *AVION, "--num_frames", frames, "--verify")
    times = avion("")["temporal_embedding"]
    wanted = times[:frames]
    if frames > len(times):  # as a picture of one colour, which is what AVION makes of it
        wanted = nn.functional.interpolate(times[None, None], size=(frames, 32), mode="bilinear")[0, 0]
    model = load(folder)
    assert_close(model.mambavl.vision_model.temporal_embeddings.detach(), wanted)
    assert model.mambavl.get_video_features(clips(frames)).last_hidden_state.shape == (2, 1 + frames * 4, 32)
    assert AutoProcessor.from_pretrained(folder).video_processor.num_frames == frames


def test_a_file_without_a_video_model_takes_any_model_of_videos_or_pictures(made, tmp_path):
    torch.manual_seed(0)
    clip = CLIPVisionModel(tiny_vision_config()).eval()
    clip.save_pretrained(tmp_path / "clip")
    reader = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor"}
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(reader))
    folder, _ = made("--vision", tmp_path / "clip", "--verify")
    found = load(folder).mambavl.get_video_features(clips()).last_hidden_state
    assert_close(found[:, :5], clip(clips()[:, 0]).last_hidden_state)


def test_the_fusion_of_a_file_with_a_video_model_may_be_converted_alone(made, tmp_path):
    folder, weights = made("--features_only", "--keep_unused", more=avion())
    assert load(folder).mambavl.vision_model is None
    back = convert(folder, tmp_path / "back", "--to_original")
    assert_identical(load_file(back / "model.safetensors"), weights)


def test_the_checkpoint_reads_clips_and_questions_and_names_classes(made, tmp_path):
    files = []
    for head, count in HEADS.items():
        files.append(tmp_path / f"{head}.csv")
        rows = [f"{number},{head} {number},[]" for number in range(count)]
        files[-1].write_text("\n".join(["id,key,instances", *rows]) + "\n")
    folder, _ = made(*AVION, "--labels", *files, "--license", "mit", more=avion())
    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor(videos=torch.zeros(4, 3, 20, 20, dtype=torch.uint8).numpy().transpose(0, 2, 3, 1))
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 16, 16)
    assert inputs["input_ids"].shape == (1, 2, 40)
    assert_close(
        inputs["pixel_values_videos"][0, 0, :, 0, 0], torch.tensor([-1.5814, -1.7521, -1.4802]), atol=1e-3, rtol=0
    )
    model = load(folder)
    assert model.config.heads["noun"][12] == "noun 12"
    assert model.config.id2label[14] == "verb 1 noun 1"
    assert model(**inputs).logits.shape == (1, 9 * 13)
    card = (folder / "README.md").read_text()
    assert "Made of `checkpoint_epoch_00035.pyth` by `hmba convert mambavl`" in card
    assert "license: mit" in card and str(tmp_path) not in card
    code = {path.name for path in folder.glob("*.py")}
    assert {"modeling_mambavl.py", "encoding_mambavl.py", "processing_mambavl.py"} <= code


def test_verify_finds_a_changed_tensor(refused, monkeypatch):
    read = FileTensors.read

    def read_changed(self, name):
        tensor = read(self, name)
        return tensor + 1e-3 if name == "mambavl.text_projection.layers.1.bias" else tensor

    monkeypatch.setattr(FileTensors, "read", read_changed)
    refused("--verify", match=r"mambavl\.text_projection\.layers\.1\.bias must equal its origins")


def test_verify_finds_a_table_that_takes_queries_for_keys(refused, monkeypatch):
    for ours, original in (("q", "k"), ("k", "q")):
        monkeypatch.setitem(mambavl_names.LAYERS, f"attn.{original}_proj", f"self_attn.{ours}_proj")
    refused(*AVION, "--verify", more=avion(), match="logits of verb must match the original's")


def test_the_card_of_a_model_without_a_video_model_shows_how_it_gets_features(made):
    card = (made()[0] / "README.md").read_text()
    assert "It has no video model: give it `video_features` of 32 channels" in card
    assert 'inputs["video_features"] = features  # (1, tokens, 32)' in card
    assert "clip.mp4" not in card
    assert 'processor(videos=["clip.mp4"]' in (made(*AVION, more=avion(), name="whole")[0] / "README.md").read_text()


def test_recorded_numbers_of_another_model_are_found(refused, golden, tmp_path):
    tensors, _ = golden("mambavl_fusion_small")
    numbers = {name: tensor for name, tensor in tensors.items() if name.startswith(("in.", "out."))}
    numbers["out.x_noun"] = numbers["out.x_noun"] + 1e-3
    save_file(numbers, tmp_path / "recorded.safetensors")
    refused("--verify", tmp_path / "recorded.safetensors", match="out.x_noun must match the original's")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strange.weight": torch.ones(1)}, "must have names in the table, got strange.weight"),
        ({"A_log": None}, "must be of a MambaVL, which has A_log, got "),
        ({"fuser.norm.weight": torch.ones(32)}, r"must be fused by Mamba, got fuser\.\*"),
        ({"head1.bias": None}, r"must hold an origin of classifiers\.noun\.bias"),
        ({"head1.weight": None}, "must hold head1.weight, got none"),
        ({"mamba_text.D": None}, r"must hold an origin of mambavl\.fusion\.text_mixer\.D"),
        (
            {"text_model.embeddings.LayerNorm.bias": None},
            r"origin of mambavl\.text_model\.embeddings\.LayerNorm\.bias",
        ),
        ({"text_model.embeddings.word_embeddings.weight": None}, "must hold text_model.embeddings.word_embeddings"),
        ({"txt_proj.2.weight": torch.ones(32, 31)}, r"txt_proj.2.weight must be \(32, 32\), got \(32, 31\)"),
        ({"A_log": torch.ones(63, 16)}, "A_log must have a multiple of 32 rows, the width of the mixers, got 63"),
        ({"mamba_text.A_log": torch.ones(64, 16)}, r"got mamba_text\.A_log, which would be .*text_mixer\.A_log"),
        ({"head0.bias": torch.full((9,), torch.nan)}, "head0.bias must be finite, got NaN"),
        ({"head0.bias": torch.ones(9).half()}, "head0.bias must be torch.float32 as most tensors are"),
    ],
)
def test_a_tensor_that_is_not_as_the_table_says_is_named(changes, message, refused):
    refused(more=changes, match=message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"orvit.conv1.weight": torch.ones(32, 100)}, "orvit.conv1.weight must have a column for each of 3 colours"),
        ({"orvit.positional_embedding": torch.ones(4, 32)}, "must have a class token and a square of rows, got 4"),
        ({"orvit.transformer.resblocks.1.attn.Wqkv.weight": torch.ones(95, 32)}, "must have rows for 3 equal parts"),
        ({"orvit.transformer.resblocks.1.attn.Wqkv.bias": None}, r"origin of .*layers\.1\.self_attn\.k_proj\.bias"),
        ({"orvit.transformer.resblocks.3.ln_1.bias": torch.ones(32)}, "must be numbered from 0 without gaps"),
        ({"orvit.transformer.resblocks.0.attn.in_proj_bias": torch.ones(96)}, "Wqkv.bias must be one tensor, got "),
        ({"orvit.ln_post.weight": None}, r"must hold an origin of .*post_layernorm\.weight"),
        ({"orvit.conv1.weight": None}, "must hold orvit.conv1.weight, got none"),
    ],
)
def test_a_tensor_of_the_video_model_that_does_not_fit_is_named(changes, message, refused):
    refused(*AVION, more={**avion(), **changes}, match=message)


def test_a_video_model_of_another_width_is_refused(refused, tmp_path):
    refused(*AVION, more=avion(width=16), match="must have the width of the fusion, 32, got 16")
    CLIPVisionModel(tiny_vision_config(hidden_size=16)).save_pretrained(tmp_path / "clip")
    refused("--vision", tmp_path / "clip", match="must have the width of the fusion, 32, got 16")


@pytest.mark.parametrize(
    ("options", "tower", "message"),
    [
        ([], True, "--num_attention_heads must divide the video model's width 32, got 0"),
        (["--num_attention_heads", 3], True, "--num_attention_heads must divide the video model's width 32, got 3"),
        (AVION, False, "--num_attention_heads must be absent without a video model of the original, got 2"),
        (["--num_frames", 8], False, "--num_frames must be with --vision, whose times it changes, got 8"),
        ([*AVION, "--num_frames", 8], True, "--num_frames must be with --vision, whose times it changes, got 8"),
        (["--vision", "clip"], True, "--vision must be absent for a file with a video model, got clip"),
    ],
)
def test_an_option_that_does_not_fit_the_file_is_refused(options, tower, message, refused):
    refused(*options, more=avion() if tower else {}, match=message)


def test_class_files_must_name_every_class(refused, tmp_path):
    (tmp_path / "verbs.csv").write_text("id,key\n0,take\n1,put\n")
    labels = ["--labels", tmp_path / "verbs.csv", tmp_path / "verbs.csv"]
    refused(*labels, match="must name 9 classes for the head 'verb', got 2")


def test_a_folder_with_one_checkpoint_of_pyslowfast_is_read(write, tokenizer, tmp_path):
    path, _ = write()
    (tmp_path / "checkpoints").mkdir()
    path.rename(tmp_path / "checkpoints" / path.name)
    folder = convert(tmp_path / "checkpoints", tmp_path / "ours", "--tokenizer", tokenizer, "--dtype", "bfloat16")
    weights = load_file(folder / "model.safetensors")
    assert weights["mambavl.fusion.video_mixer.A_log"].dtype == torch.float32
    assert weights["classifiers.verb.weight"].dtype == torch.bfloat16
    (tmp_path / "checkpoints" / "checkpoint_epoch_00036.pyth").write_bytes(b"")
    with pytest.raises(ValueError, match="must hold the files of one checkpoint, got .*: name one of them"):
        convert(tmp_path / "checkpoints", tmp_path / "again", "--tokenizer", tokenizer)


def test_a_half_written_file_is_refused(refused, write):
    path, _ = write()
    path.write_bytes(path.read_bytes()[:-2000])
    refused(path=path, match="must be a whole file of tensors, got ")


def test_a_tokenizer_of_more_words_than_the_embeddings_is_refused(refused, write):
    short = {"text_model.embeddings.word_embeddings.weight": torch.ones(9, 24)}
    refused(more=short, match="must have at most 9 tokens, the rows of the embeddings, got ")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "the video model must be of .'mambavl_vision', .*'mambavl_features'., .* got 'clip_vision_model'"),
        ({"share_A": False}, "share_A must be True, as in the original code, got False"),
        ({"fusion": "mlp"}, "fusion must be 'mamba', as in the original code, got 'mlp'"),
        ({"text_features": "contextual"}, "text_features must be 'embeddings'"),
        ({"heads": {"action": 3}}, r"heads must be \['verb', 'noun'\], as in the original code, got \['action'\]"),
    ],
)
def test_a_model_that_the_original_code_has_not_does_not_go_back(values, message, tmp_path):
    tiny_model(**values).save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "ours", tmp_path / "back", "--to_original")
    assert not (tmp_path / "back").exists()


def test_a_base_model_does_not_go_back(tmp_path):
    tiny_model().mambavl.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"architectures must be \['MambaVLForVideoClassification'\]"):
        convert(tmp_path / "ours", tmp_path / "back", "--to_original")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to_original", "--features_only", "--num_frames", 3], "without --features_only, --num_frames"),
        (["--to_original", "--verify", "recorded"], "--to_original must be without --verify RECORDED"),
        (["--features_only", "--vision", "clip"], "--features_only must be without --vision, got clip"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert(tmp_path, tmp_path / "ours", *options)
    assert message in capsys.readouterr().err
