import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import (
    AutoModel,
    DebertaV2Config,
    DebertaV2Model,
    RobertaModel,
    T5Config,
    TimesformerConfig,
    VideoMAEConfig,
    VivitConfig,
    VJEPA2Config,
)

from hmba_hf import MambaVLConfig, MambaVLForVideoClassification, VideoMambaConfig
from hmba_hf.conversion.mambavl_names import fusion_rules
from hmba_hf.conversion.rename_keys import rename_tensors
from hmba_hf.families import FAMILIES, family_of
from hmba_hf.models.layers_question_fusion import answer_loss, masked_mean
from tiny_mambavl import HEADS, Table, tiny_batch, tiny_config, tiny_model, tiny_text_config, tiny_vision_config

A_LOGS = ("mambavl.fusion.video_mixer.A_log", "mambavl.fusion.text_mixer.A_log")


@pytest.fixture
def original(golden):
    """The original's fusion in ours, its inputs, and its numbers."""
    tensors, facts = golden("mambavl_fusion_small")
    sizes = facts["config"]
    model = MambaVLForVideoClassification(
        MambaVLConfig(
            vision_config=tiny_vision_config(hidden_size=sizes["embed_dim"]),
            text_config=tiny_text_config(hidden_size=sizes["text_width"]),
            heads={"verb": sizes["verbs"], "noun": sizes["nouns"]},
            state_size=sizes["d_state"],
            conv_kernel=sizes["d_conv"],
            expand=sizes["expand"],
        )
    )
    held = {}
    for name, weight in model.state_dict().items():
        if not name.startswith(("mambavl.vision_model.", "mambavl.text_model.")) and name != A_LOGS[1]:
            held[name] = weight
    weights = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w.")}
    missing, unexpected = model.load_state_dict(rename_tensors(weights, fusion_rules(), held), strict=False)
    assert not unexpected
    assert all(name.startswith(("mambavl.vision_model.", "mambavl.text_model.", A_LOGS[1])) for name in missing)
    questions = [tensors["in.verb_question_embeddings"], tensors["in.noun_question_embeddings"]]
    model.mambavl.text_model = Table(torch.cat([question.flatten(0, 1) for question in questions]))
    tokens = torch.arange(len(model.mambavl.text_model.tokens)).unflatten(0, (2, *questions[0].shape[:2]))
    inputs = {"video_features": tensors["in.video_features"], "input_ids": tokens.transpose(0, 1)}
    return model.eval(), inputs, tensors


def test_the_fusion_equals_the_originals(original):
    model, inputs, tensors = original
    outputs = model(**inputs)
    assert_close(outputs.verb_logits, tensors["out.verb_logits"], atol=1e-5, rtol=0)
    assert_close(outputs.noun_logits, tensors["out.noun_logits"], atol=1e-5, rtol=0)
    assert_close(outputs.head_features[:, 0], tensors["out.x_verb"], atol=1e-5, rtol=0)
    assert_close(outputs.head_features[:, 1], tensors["out.x_noun"], atol=1e-5, rtol=0)
    assert_close(model.mambavl(**inputs).last_hidden_state, tensors["out.video_mamba"], atol=1e-5, rtol=0)


def test_smoothed_labels_give_the_originals_losses_and_gradient_of_the_shared_matrix(original):
    model, inputs, tensors = original
    wanted = []
    for head, size in model.config.head_sizes.items():
        is_class = nn.functional.one_hot(tensors[f"in.{head}_label"], size).float()
        wanted.append(0.9 * is_class + 0.1 / size)
    loss = model(**inputs, labels=torch.cat(wanted, dim=1)).loss
    assert_close(loss, (tensors["out.verb_loss"] + tensors["out.noun_loss"])[0], atol=1e-5, rtol=0)
    loss.backward()
    gradient = tensors["grad.A_log"]
    shared = model.get_parameter(A_LOGS[0])
    assert_close(shared.grad, gradient, atol=1e-4 * gradient.abs().max().item(), rtol=0)
    assert shared is model.get_parameter(A_LOGS[1])


def test_known_classes_have_the_loss_of_torch_and_unknown_ones_have_none():
    model = tiny_model()
    batch = tiny_batch()
    outputs = model(**batch, labels=torch.tensor([[1, 3], [2, -100]]))
    verbs = nn.functional.cross_entropy(outputs.verb_logits, torch.tensor([1, 2]))
    nouns = nn.functional.cross_entropy(outputs.noun_logits[:1], torch.tensor([3]))
    assert_close(outputs.loss, verbs + nouns)
    none = model(**batch, labels=torch.full((2, 2), -100))
    assert none.loss == 0


def test_joint_classes_are_all_combinations_with_the_product_of_their_probabilities():
    model = tiny_model()
    outputs = model(**tiny_batch())
    names = model.config.id2label
    assert model.config.num_labels == 12
    assert names[0] == "take cup"
    assert names[5] == "put plate"
    joint = outputs.logits.softmax(-1)
    assert_close(joint[:, 5], outputs.verb_logits.softmax(-1)[:, 1] * outputs.noun_logits.softmax(-1)[:, 1])
    assert_close(joint.sum(-1), torch.ones(2))
    assert outputs.action_logits is outputs.logits


def test_combinations_that_are_too_many_are_left_out():
    model = tiny_model(heads={"verb": 97, "noun": 300, "adverb": 4})
    outputs = model(**tiny_batch(heads=3))
    assert outputs.logits is None
    assert model.config.id2label == {}
    assert outputs.noun_logits.shape == (2, 300)


def test_a_model_of_one_head_gives_the_logits_of_its_classes():
    model = tiny_model(heads={"action": ["turns", "stops"]})
    batch = tiny_batch(heads=1)
    outputs = model(**batch, labels=torch.tensor([0, 1]))
    assert outputs.logits is outputs.head_logits["action"]
    assert model.config.id2label == {0: "turns", 1: "stops"}
    assert_close(outputs.loss, nn.functional.cross_entropy(outputs.logits, torch.tensor([0, 1])))


def test_unlike_questions_about_one_clip_give_unlike_features():
    model = tiny_model()
    batch = tiny_batch(batch=1)
    features = model(**batch).head_features[0]
    assert (features[0] - features[1]).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["mamba", "transformer", "mlp"])
def test_a_text_that_is_masked_whole_changes_nothing(fusion):
    model = tiny_model(fusion=fusion, text_features="contextual")
    batch = tiny_batch()
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    first = model(**batch).head_features
    others = torch.randint(5, 60, batch["input_ids"].shape)
    assert_close(model(**{**batch, "input_ids": others}).head_features, first, atol=0, rtol=0)
    assert first.isfinite().all()


@pytest.mark.parametrize(("fusion", "rounding"), [("mamba", 0), ("transformer", 1e-6), ("mlp", 1e-6)])
def test_a_text_that_is_masked_whole_is_as_no_text(fusion, rounding):
    model = tiny_model(fusion=fusion)
    batch = tiny_batch()
    batch["attention_mask"][0, 1] = 0
    asked = model(**batch).head_features
    unasked = model(batch["pixel_values_videos"]).head_features
    assert_close(asked[0, 1], unasked[0, 1], atol=rounding, rtol=0)
    assert (asked[0, 0] - unasked[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", ["mamba", "transformer", "mlp"])
@pytest.mark.parametrize("text_features", ["embeddings", "contextual"])
def test_padding_changes_nothing(fusion, text_features):
    model = tiny_model(fusion=fusion, text_features=text_features)
    batch = tiny_batch()
    wanted = model(**batch).head_features
    longer = {**batch}
    for name, filler in (("input_ids", 1), ("attention_mask", 0)):
        longer[name] = nn.functional.pad(batch[name], (0, 3), value=filler)
    assert_close(model(**longer).head_features, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", ["mamba", "transformer", "mlp"])
@pytest.mark.parametrize("text_features", ["embeddings", "contextual"])
def test_padding_before_a_question_changes_nothing(fusion, text_features):
    model = tiny_model(fusion=fusion, text_features=text_features)
    batch = tiny_batch()
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    batch["input_ids"] = torch.randint(5, 60, batch["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    wanted = model(**batch).head_features
    before = {**batch}
    for name, filler in (("input_ids", 1), ("attention_mask", 0)):
        before[name] = nn.functional.pad(batch[name], (3, 0), value=filler)
    assert_close(model(**before).head_features, wanted, atol=2e-6, rtol=0)


def test_the_released_behaviour_reads_padding_as_text():
    model = tiny_model(ignore_text_mask=True)
    batch = tiny_batch()
    unmasked = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    assert_close(model(**batch).head_features, model(**unmasked).head_features, atol=0, rtol=0)
    kept = tiny_model()
    assert (kept(**batch).head_features - kept(**unmasked).head_features).abs().max() > 1e-4


def test_the_released_behaviour_asks_nothing_where_a_question_is_masked_whole():
    model = tiny_model(ignore_text_mask=True)
    batch = tiny_batch()
    batch["attention_mask"] = torch.zeros_like(batch["attention_mask"])
    unasked = model(batch["pixel_values_videos"]).head_features
    assert_close(model(**batch).head_features, unasked, atol=0, rtol=0)


def test_the_mean_of_no_token_is_zero():
    text = torch.full((2, 3, 4), torch.inf)
    mask = torch.tensor([[False] * 3, [True, False, False]])
    text[1, 0] = 2.0
    assert_close(masked_mean(text, mask), torch.tensor([[0.0] * 4, [2.0] * 4]))


@pytest.mark.parametrize("fusion", ["mamba", "transformer", "mlp"])
def test_every_weight_learns_so_that_processes_may_learn_together(fusion):
    model = tiny_model(fusion=fusion).train()
    model(**tiny_batch(), labels=torch.zeros(2, 2, dtype=torch.long)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_a_saved_model_answers_as_before_and_keeps_the_order_of_its_heads(tmp_path):
    model = tiny_model(heads={"verb": 3, "noun": ["a", "b"], "adverb": 2})
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert list(loaded.config.heads) == ["verb", "noun", "adverb"]
    assert "LABEL_0 a LABEL_1" in loaded.config.label2id
    assert "id2label" not in (tmp_path / "config.json").read_text()
    batch = tiny_batch(heads=3)
    again = MambaVLForVideoClassification.from_pretrained(tmp_path)
    assert_close(again(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_one_head_follows_transformers_names_of_classes_and_several_refuse_them(tmp_path):
    tiny_model(heads={"action": 3}).save_pretrained(tmp_path / "one")
    load = MambaVLForVideoClassification.from_pretrained
    model = load(tmp_path / "one", num_labels=5, ignore_mismatched_sizes=True)
    assert model.config.head_sizes == {"action": 5}
    assert model(**tiny_batch(heads=1)).logits.shape == (2, 5)
    tiny_model().save_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="heads must be given for a model of several heads"):
        load(tmp_path / "two", num_labels=5)
    replaced = load(tmp_path / "two", heads={"verb": 3, "noun": 6}, ignore_mismatched_sizes=True)
    assert replaced.config.num_labels == 18


def clip_configs():
    width = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    return {
        "videomamba": VideoMambaConfig(hidden_size=32, num_hidden_layers=1, image_size=16, patch_size=8, num_frames=4),
        "timesformer": TimesformerConfig(**width, intermediate_size=32, num_frames=4),
        "videomae": VideoMAEConfig(**width, intermediate_size=32, num_frames=4),
        "vivit": VivitConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            tubelet_size=[2, 8, 8],
            num_frames=4,
        ),
        "vjepa2": VJEPA2Config(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            crop_size=16,
            patch_size=8,
            frames_per_clip=4,
            pred_hidden_size=32,
            pred_num_hidden_layers=1,
            pred_num_attention_heads=2,
        ),
        "clip": tiny_vision_config(),
    }


@pytest.mark.parametrize("name", list(clip_configs()))
def test_every_kind_of_video_model_is_read_and_trains(name, tmp_path):
    model = tiny_model(vision_config=clip_configs()[name], hidden_size=16)
    batch = tiny_batch(frames=4)
    outputs = model(**batch, labels=torch.zeros(2, 2, dtype=torch.long), output_hidden_states=True)
    outputs.loss.backward()
    assert model.mambavl.vision_projection.weight.grad.abs().max() > 0
    assert outputs.head_features.shape == (2, 2, 16)
    assert len(outputs.hidden_states) > 0
    other = {**batch, "pixel_values_videos": batch["pixel_values_videos"].flip(1)}
    assert (model(**other).logits - outputs.logits).abs().max() > 1e-6
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    assert_close(loaded(**batch).logits, outputs.logits.detach(), atol=1e-6, rtol=0)


def test_frames_of_a_model_of_pictures_are_read_one_after_the_other():
    model = tiny_model().mambavl
    clips = tiny_batch()["pixel_values_videos"]
    tokens = model.get_video_features(clips).last_hidden_state
    second = model.vision_model(clips[:, 1]).last_hidden_state
    assert_close(tokens[:, 5:10], second)


def test_the_text_of_a_joined_model_is_the_pretrained_one(tmp_path):
    torch.manual_seed(0)
    text = RobertaModel(tiny_text_config()).eval()
    text.save_pretrained(tmp_path / "text")
    vision = tiny_model(seed=1).mambavl.vision_model
    vision.save_pretrained(tmp_path / "vision")
    join = MambaVLForVideoClassification.from_vision_text_pretrained
    ids = torch.randint(5, 60, (2, 4))
    model = join(str(tmp_path / "vision"), str(tmp_path / "text"), heads=HEADS)
    assert_close(model.mambavl.text_model(ids).last_hidden_state, text.embeddings(ids))
    assert len(model.mambavl.text_model.encoder.layer) == 0
    pixels = torch.rand(2, 3, 16, 16)
    assert_close(model.mambavl.vision_model(pixels).last_hidden_state, vision(pixels).last_hidden_state)
    contextual = join(str(tmp_path / "vision"), str(tmp_path / "text"), heads=HEADS, text_features="contextual")
    assert_close(contextual.mambavl.text_model(ids).last_hidden_state, text(ids).last_hidden_state)
    with pytest.raises(ValueError, match="values of MambaVLConfig, got \\['num_heads'\\]"):
        join(str(tmp_path / "vision"), str(tmp_path / "text"), num_heads=2)


def failing(error):
    def forward(self, input_ids=None, attention_mask=None):
        raise error("of the program")

    return forward


def test_a_text_model_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    tiny_model().mambavl.vision_model.save_pretrained(tmp_path / "vision")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    DebertaV2Model(DebertaV2Config(**sizes, vocab_size=60)).save_pretrained(tmp_path / "deberta")
    join = MambaVLForVideoClassification.from_vision_text_pretrained
    with pytest.raises(ValueError, match="must be a text model that reads tokens, .* got DebertaV2Model"):
        join(str(tmp_path / "vision"), str(tmp_path / "deberta"), heads=HEADS)
    with pytest.raises(ValueError, match="must be a text model that reads tokens, .*, which (takes none|fails)"):
        join(str(tmp_path / "vision"), str(tmp_path / "vision"), heads=HEADS)
    for mistake in (TypeError, NameError, MemoryError, torch.OutOfMemoryError):
        with monkeypatch.context() as patch, pytest.raises(mistake, match="of the program"):
            patch.setattr(DebertaV2Model, "forward", failing(mistake))
            join(str(tmp_path / "vision"), str(tmp_path / "deberta"), heads=HEADS)
    contextual = join(str(tmp_path / "vision"), str(tmp_path / "deberta"), heads=HEADS, text_features="contextual")
    assert contextual(**tiny_batch()).logits.isfinite().all()
    with pytest.raises(ValueError, match="text_config must be of a model without a decoder, got 't5'"):
        tiny_config(text_config=T5Config(d_model=16))


def test_the_table_of_tokens_can_grow(tmp_path):
    model = tiny_model()
    batch = tiny_batch()
    wanted = model(**batch).logits
    model.resize_token_embeddings(70)
    assert model.get_input_embeddings().num_embeddings == 70
    assert_close(model(**batch).logits, wanted, atol=0, rtol=0)
    model.save_pretrained(tmp_path)
    loaded = MambaVLForVideoClassification.from_pretrained(tmp_path)
    batch["input_ids"][:, :, -1] = 69
    assert_close(loaded(**batch).logits, model(**batch).logits, atol=0, rtol=0)


def test_a_frozen_text_model_drops_nothing_in_training():
    model = tiny_model()
    model.mambavl.text_model.requires_grad_(False)
    model.train()
    assert not model.mambavl.text_model.training
    assert model.mambavl.fusion.training
    model.mambavl.text_model.requires_grad_(True)
    assert model.train().mambavl.text_model.training


def test_the_released_initialisation_has_no_spread_of_decays_and_steps():
    released = tiny_model(initialization="released").mambavl.fusion.video_mixer
    ours = tiny_model().mambavl.fusion.video_mixer
    assert released.dt_proj.bias.abs().max() == 0
    assert ours.dt_proj.bias.std() > 0.1
    assert_close(ours.A_log[0], torch.arange(1.0, 5.0).log())
    assert released.A_log.abs().max() < 0.4


def test_answers_teach_and_those_that_are_the_same_are_no_mistakes():
    features = torch.eye(3)
    classes = torch.tensor([0, 1, 0])
    right = answer_loss(features, torch.stack([features[0], features[1], features[0]]), classes, 0.07)
    wrong = answer_loss(features, features.roll(1, dims=0), classes, 0.07)
    assert right < wrong
    same = answer_loss(features, torch.eye(3)[[2, 1, 0]], classes, 0.07)
    assert_close(same, answer_loss(features, torch.eye(3), classes, 0.07))
    unknown = torch.full((3,), -100)
    assert answer_loss(features, features, unknown, 0.07) == 0
    partly = answer_loss(features, features.roll(1, dims=0), torch.tensor([0, 1, -100]), 0.07)
    assert_close(partly, answer_loss(features[:2], features.roll(1, dims=0)[:2], classes[:2], 0.07))


def test_the_answers_are_part_of_the_loss_by_their_weight():
    labels = torch.tensor([[0, 1], [1, 2]])
    answers = {"answer_input_ids": torch.randint(5, 60, (2, 2, 3), generator=torch.Generator().manual_seed(3))}
    plain = tiny_model()(**tiny_batch(), labels=labels).loss
    weighted = tiny_model(answer_loss_weight=0.5)(**tiny_batch(), labels=labels, **answers)
    assert_close(weighted.loss, plain + 0.5 * weighted.answer_loss)
    mixed = torch.cat([nn.functional.one_hot(labels[:, 0], 3), nn.functional.one_hot(labels[:, 1], 4)], dim=1)
    soft = tiny_model(answer_loss_weight=0.5)(**tiny_batch(), labels=mixed.float(), **answers)
    assert_close(soft.loss, weighted.loss)


def test_parts_and_rates_of_the_family_name_every_parameter():
    model = tiny_model(hidden_size=16)
    family = family_of(model)
    assert family in FAMILIES
    assert {family.part_of(name) for name, _ in model.named_parameters()} == set(family.parts)
    assert "A_log" in family.no_weight_decay
    rates = [name for name, _ in model.named_parameters() if name.startswith(family.rates["mamba"])]
    assert A_LOGS[0] not in rates  # as in the released recipes
    assert sum("text_mixer." in name for name in rates) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": torch.ones(2, 1, 5, dtype=torch.long)}, r"one for each of \['verb', 'noun'\], got \(2, 1, 5\)"),
        ({"input_ids": torch.ones(2, 2, 0, dtype=torch.long)}, r"got \(2, 2, 0\)"),
        ({"attention_mask": torch.ones(2, 2, 4)}, r"attention_mask must be \(2, 2, 5\)"),
        ({"attention_mask": torch.full((2, 2, 5), -1e9)}, "attention_mask must be 1 for tokens that are read and 0"),
        ({"attention_mask": torch.full((2, 2, 5), torch.nan)}, "attention_mask must be 1 for tokens that are read"),
        ({"answer_attention_mask": torch.ones(2, 2, 3)}, "answer_attention_mask must come with answer_input_ids"),
        ({"input_ids": None}, "attention_mask must come with input_ids"),
        ({"pixel_values_videos": None}, "one of pixel_values_videos and video_features must be given"),
        ({"video_features": torch.ones(2, 3, 32)}, "one of pixel_values_videos and video_features must be given"),
        ({"pixel_values_videos": torch.ones(2, 3, 16, 16)}, "must be .batch, frames, channels, height, width"),
        ({"pixel_values_videos": torch.ones(0, 3, 3, 16, 16)}, "must be .batch, frames, channels, height, width"),
        ({"pixel_values_videos": torch.full((2, 3, 3, 16, 16), torch.nan)}, "must be finite"),
        ({"labels": torch.zeros(2, 3, dtype=torch.long)}, r"labels must be \(batch, 2\), one for each of"),
        ({"labels": torch.tensor([[0, 4], [0, 0]])}, "labels of head 'noun' must be from 0 to 3"),
        ({"labels": torch.zeros(2, 6)}, r"labels must be \(batch, 7\) for probabilities"),
        ({"labels": torch.zeros(3, 2, dtype=torch.long)}, r"labels must be numbers for a batch of 2, got \(3, 2\)"),
        (
            {"labels": torch.zeros(2, 2, dtype=torch.bool)},
            "labels must be numbers .* got .* torch.bool",
        ),
        ({"answer_input_ids": torch.ones(2, 2, 3, dtype=torch.long)}, "labels must come with answer_input_ids"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_wanted(changes, message):
    inputs = {name: value for name, value in {**tiny_batch(), **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        tiny_model()(**inputs)


def test_a_head_that_is_called_as_torch_calls_its_own_is_refused():
    with pytest.raises(ValueError, match="a head must have a name that modules of torch do not use, got 'type'"):
        tiny_model(heads={"type": 2})


def test_features_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"video_features must be \(batch, tokens, 32\), got \(2, 3, 31\)"):
        tiny_model()(video_features=torch.ones(2, 3, 31))
    with pytest.raises(ValueError, match="video_features must be finite"):
        tiny_model()(video_features=torch.full((2, 3, 32), torch.inf))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"heads": {}}, "heads must be the classes of each head"),
        ({"heads": {"verb": []}}, "must have names of classes or their number"),
        ({"heads": {"verb": ["a", "a"]}}, "must name each class once"),
        ({"heads": {"a verb": 3}}, "a head must have a name of letters"),
        ({"fusion": "attention"}, "fusion must be one of"),
        ({"text_features": "pooled"}, "text_features must be one of"),
        ({"initialization": "xavier"}, "initialization must be one of"),
        ({"state_size": 0}, "state_size must be at least 1"),
        ({"fusion": "transformer", "hidden_size": 30}, "must be a multiple of fusion_heads=4"),
        ({"answer_temperature": 0.0}, "answer_temperature must be greater than zero"),
        ({"answer_loss_weight": -1.0}, "answer_loss_weight must be zero or more"),
        ({"head_dropout": 1.0}, "head_dropout must be from 0"),
        (
            {"text_features": "contextual", "text_config": tiny_text_config(num_hidden_layers=0)},
            "text_features must be 'embeddings' for a text model without layers",
        ),
    ],
)
def test_values_that_make_no_model_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**values)
