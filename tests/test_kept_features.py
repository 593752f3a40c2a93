import pytest
import torch
from torch.testing import assert_close

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.feature_cache.keeping import KeptClips, KeptFeatures
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.tasks.answering.collator import SampleCollator
from tiny_bases import SHORT_TEMPLATE, save_base, tune
from tiny_models import assert_equal_weights, open_gate, tiny_model
from tiny_processors import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "train", 6)


class Encoded:
    """The clips of `WORLD` as inputs, which counts what is read."""

    def __init__(self, collator):
        self.collator = collator
        self.read = []

    def __len__(self):
        return len(WORLD)

    def __getitem__(self, index):
        self.read.append(index)
        return self.collator.encode(WORLD[index])


@pytest.fixture
def collator():
    return SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE))


def test_kept_features_give_the_loss_and_the_gradients_of_the_clips(collator):
    torch.manual_seed(0)
    model = open_gate(tiny_model(adapter="transformer"))
    kept = KeptFeatures(Encoded(collator), torch.no_grad()(model.get_frame_features), {}, gigabytes=1)
    batches = [collator([kept[index] for index in (0, 3)]) for _ in range(2)]
    wanted = collator([WORLD[0], WORLD[3]])
    gradients = []
    for batch in (*batches, wanted):
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        gradients.append([loss.detach(), model.model.temporal_adapter.gate.grad.clone()])
    assert_close(gradients[0], gradients[2])
    assert_close(gradients[1], gradients[2])


def test_a_clip_is_read_and_encoded_once_as_far_as_memory_goes(collator):
    tower = lambda pixels: torch.zeros(*pixels.shape[:2], 4, 16)  # noqa: E731
    samples = Encoded(collator)
    kept = KeptFeatures(samples, tower, {}, gigabytes=1)
    for index in (0, 1, 0, 1):
        kept[index]
    assert samples.read == [0, 1] and len(kept) == len(WORLD)
    room = 1.5 * kept.held / 2 / 1e9  # for one clip, and not for two
    small = KeptFeatures(Encoded(collator), tower, {}, gigabytes=room)
    for index in (0, 1, 0, 1):
        small[index]
    assert small.samples.read == [0, 1, 1] and small.held <= room * 1e9


def test_a_second_run_takes_the_features_of_the_first_one_alone_if_they_are_its_own(tmp_path, monkeypatch):
    base = save_base(tmp_path / "base")
    words = ["--num_train_epochs", 1, "--keep_features", 1]
    first = tune(base, tmp_path / "first", "--adapter", "none", *words)
    kept = first.train_dataset
    monkeypatch.setattr(type(kept.samples), "__getitem__", lambda *words: pytest.fail("all clips are kept"))
    second = tune(base, tmp_path / "second", "--adapter", "mean", *words, clips=kept)
    assert second.train_dataset is kept
    with pytest.raises(ValueError, match="clips must be kept with the features of this run, got other ones: clips"):
        tune(base, tmp_path / "third", "--adapter", "mean", *words, "--world_seed", 3, clips=kept)


def test_a_run_with_kept_features_learns_what_it_learns_from_pixels(tmp_path):
    base = save_base(tmp_path / "base")
    losses = []
    for name, words in {"pixels": [], "kept": ["--keep_features", 1]}.items():
        trainer = tune(base, tmp_path / name, "--adapter", "transformer", "--num_train_epochs", 2, *words)
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_kept_clips_are_read_once_and_the_same_to_the_bit(collator):
    samples = Encoded(collator)
    kept = KeptClips(samples, gigabytes=1)
    for _ in range(3):
        for index in (0, 1):
            wanted = collator.encode(WORLD[index])
            given = kept[index]
            assert given.keys() == wanted.keys()
            assert all(torch.equal(given[name], value) for name, value in wanted.items())
    assert samples.read == [0, 1]


def test_kept_pixels_take_a_byte_each_where_their_channels_have_256_values(collator):
    pixels = collator.encode(WORLD[0])["pixel_values_videos"]
    others = torch.randn_like(pixels)
    kept = KeptClips([{"pixel_values_videos": pixels}, {"pixel_values_videos": others}], gigabytes=1)
    kept[0]
    assert pixels.numel() < kept.held < 1.5 * pixels.numel()
    before = kept.held
    kept[1]
    assert kept.held - before == others.nbytes
    assert torch.equal(kept[0]["pixel_values_videos"], pixels) and torch.equal(kept[1]["pixel_values_videos"], others)


def test_kept_clips_stay_within_their_memory(collator):
    samples = Encoded(collator)
    one = KeptClips(samples, gigabytes=1)
    one[0]
    room = 1.5 * one.held / 1e9  # for one clip, and not for two
    kept = KeptClips(Encoded(collator), gigabytes=room)
    for index in (0, 1, 0, 1):
        kept[index]
    assert kept.samples.read == [0, 1, 1] and kept.held <= room * 1e9


def test_clips_that_are_drawn_anew_are_not_kept(collator):
    drawn = EncodedSamples(WORLD, collator, BadSamples("stop"), seed=3)
    with pytest.raises(ValueError, match="samples that are kept must be the same at each visit, got seed=3"):
        KeptClips(drawn, gigabytes=1)


def test_a_tower_that_learns_from_kept_clips_learns_the_same_to_the_bit(tmp_path):
    base = save_base(tmp_path / "base")
    words = ["--learns", "vision_tower", "adapter", "--adapter", "mean", "--num_train_epochs", 2]
    plain = tune(base, tmp_path / "plain", *words)
    kept = tune(base, tmp_path / "kept", *words, "--keep_clips", 1)
    assert isinstance(kept.train_dataset, KeptClips) and kept.train_dataset.held
    assert_equal_weights(kept.model, plain.model)
    assert kept.recipe == plain.recipe


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--keep_features", "2"], "--keep_features 2.0"),
        (["--streaming", "True", "--max_steps", "1"], "--streaming"),
        (["--dataloader_num_workers", "1"], "--dataloader_num_workers 1"),
        (["--feature_cache", "somewhere"], "--feature_cache"),
    ],
)
def test_clips_are_kept_only_where_that_can_work(tmp_path, words, reason):
    base = save_base(tmp_path / "base")
    with pytest.raises(ValueError, match=f"keep_clips must be 0 with {reason}, got 1.0"):
        tune(base, tmp_path / "out", "--keep_clips", 1, *words)
    with pytest.raises(ValueError, match="keep_clips must be gigabytes from 0 on, got -1.0"):
        tune(base, tmp_path / "out", "--keep_clips", -1)


@pytest.mark.parametrize(
    "words, reason",
    [
        (["--learns", "vision_tower"], "a vision tower that learns"),
        (["--streaming", "True", "--max_steps", "1"], "--streaming"),
        (["--dataloader_num_workers", "1"], "--dataloader_num_workers 1"),
        (["--feature_cache", "somewhere"], "--feature_cache"),
    ],
)
def test_features_are_kept_only_where_that_can_work(tmp_path, words, reason):
    base = save_base(tmp_path / "base")
    with pytest.raises(ValueError, match=f"keep_features must be 0 with {reason}, got 1.0"):
        tune(base, tmp_path / "out", "--keep_features", 1, *words)
    with pytest.raises(ValueError, match="keep_features must be gigabytes from 0 on, got -1.0"):
        tune(base, tmp_path / "out", "--keep_features", -1)
