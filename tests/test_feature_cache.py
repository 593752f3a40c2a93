import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from filelock import FileLock
from PIL import Image

from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.feature_cache import writing
from hmba_hf.data.feature_cache.reading import CachedSample, CachedSamples, FeatureCache, describe_sample
from hmba_hf.data.feature_cache.writing import FeatureWriter
from hmba_hf.data.loading import RowSamples, load_samples, undecoded
from hmba_hf.data.micro_world.parquet import write_bddx, write_drama, write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Sample
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.features import feature_key
from tiny_bases import SHORT_TEMPLATE
from tiny_models import open_gate, tiny_model
from tiny_processors import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "train", 6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return open_gate(tiny_model())


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(chat_template=SHORT_TEMPLATE, time_format=" at {seconds} s. ")


def writer(folder, model, processor, policy="stop", **kwargs):
    key = feature_key(model, processor.video_processor, torch.float32)
    encode = torch.no_grad()(model.get_frame_features)
    bad = BadSamples(policy, folder / "bad_samples.jsonl")
    return FeatureWriter(folder, key, encode, processor.video_processor, bad, block_size=4, **kwargs)


def cached(folder, samples, model, processor):
    return CachedSamples(samples, FeatureCache(folder, feature_key(model, processor.video_processor, torch.float32)))


@pytest.mark.parametrize("kind", ["micro-world", "drama", "bddx", "still"])
def test_a_model_gives_the_same_loss_and_gradients_for_cached_features(tmp_path, model, processor, kind):
    samples = WORLD
    if kind == "still":  # clips of unequal length
        samples = [WORLD[0], WORLD.still_sample(1), WORLD[2]]
    elif kind != "micro-world":
        write = {"drama": write_drama, "bddx": write_bddx}[kind]
        write(tmp_path / kind, WORLD.config, {"train": 6})
        samples = load_samples(str(tmp_path / kind), "train")
    assert writer(tmp_path / "cache", model, processor).write(samples) == {"made": len(samples), "cache": len(samples)}
    read = cached(tmp_path / "cache", samples, model, processor)
    batch = SampleCollator(processor)([read[index] for index in range(3)])
    wanted = SampleCollator(processor)([samples[index] for index in range(3)])
    assert "pixel_values_videos" not in batch and batch["frame_features"].shape == (3, 5, 4, 32)
    for name in wanted.keys() - {"pixel_values_videos"}:
        assert torch.equal(batch[name], wanted[name]), name
    assert (" s. " in processor.decode(batch["input_ids"][0])) == (kind == "bddx"), "times are known of videos alone"
    weight = model.model.temporal_adapter.gate
    found = [model(**inputs).loss for inputs in (batch, wanted)]
    gradients = [torch.autograd.grad(loss, weight)[0] for loss in found]
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_a_cache_without_times_serves_only_who_tells_none(tmp_path, model, processor):
    writer(tmp_path, model, processor).write([WORLD[0]])
    key = feature_key(model, processor.video_processor, torch.float32)
    FeatureCache(tmp_path, key).check_times()
    index = json.loads((tmp_path / "index.json").read_text())
    del index["times"]  # as version 0.1 left it
    (tmp_path / "index.json").write_text(json.dumps(index))
    assert cached(tmp_path, [WORLD[0]], model, processor)[0].frame_time is None
    with pytest.raises(ValueError, match="features must have times, got .* without"):
        FeatureCache(tmp_path, key).check_times()


def test_reading_cached_samples_touches_neither_pictures_nor_tower(tmp_path, model, processor, monkeypatch):
    write_drama(tmp_path / "drama", WORLD.config, {"train": 6})
    samples = load_samples(str(tmp_path / "drama"), "train")
    writer(tmp_path / "cache", model, processor).write(samples)
    monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("no picture must be read"))
    read = cached(tmp_path / "cache", samples, model, processor)
    monkeypatch.setattr(type(samples.rows), "__getitem__", lambda *args: pytest.fail("no row must be read"))
    batch = SampleCollator(processor)([read[0], read[5]])
    monkeypatch.setattr(model.model.vision_tower, "forward", lambda *args, **kw: pytest.fail("no tower must be run"))
    assert torch.isfinite(model(**batch).loss)
    assert isinstance(read[0], CachedSample) and read[0].answer == WORLD[0].answer
    assert read[0].boxes[0] == pytest.approx(WORLD[0].boxes[0], abs=1e-6)


def test_a_second_run_makes_what_is_missing_and_keeps_the_rest(tmp_path, model, processor):
    first = writer(tmp_path, model, processor)
    assert first.write(WORLD) == {"made": 6, "cache": 6}
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert writer(tmp_path, model, processor).write(WORLD) == {"made": 0, "cache": 6}
    lost = sorted(tmp_path.glob("features-*"))[0]
    lost.unlink()
    (tmp_path / "index.json").unlink()
    (tmp_path / "_features-half.safetensors.77").write_bytes(b"left by a run that was killed")
    with pytest.raises(ValueError, match="a cache of features must be whole, got .* without its index.json"):
        cached(tmp_path, WORLD, model, processor)
    assert writer(tmp_path, model, processor).write(WORLD)["made"] in (2, 4)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_features_may_be_read_by_whoever_may_read_other_new_files(tmp_path, model, processor):
    writer(tmp_path, model, processor).write(WORLD)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_two_runs_do_not_write_into_one_cache_and_a_lock_left_behind_holds_nothing(tmp_path, model, processor):
    unfinished = tmp_path / "_features-half.safetensors.77"
    unfinished.write_bytes(b"of the other run, which is at work")
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="another one is writing there"):
        writer(tmp_path, model, processor).write(WORLD)
    assert unfinished.exists()
    (tmp_path / ".lock").touch()  # as a killed process leaves it
    assert writer(tmp_path, model, processor).write(WORLD) == {"made": 6, "cache": 6}
    assert not unfinished.exists()


def test_a_folder_is_held_by_one_run_for_all_of_its_datasets(tmp_path, model, processor):
    first = writer(tmp_path, model, processor)
    with first.hold():
        for samples in (WORLD, MicroWorld(WORLD.config, "validation", 3)):
            with pytest.raises(ValueError, match="another one is writing there"):
                writer(tmp_path, model, processor).write(samples)
            first.write(samples)
    assert writer(tmp_path, model, processor).write(WORLD) == {"made": 0, "cache": 9}


def test_a_folder_that_is_refused_is_refused_in_every_process(tmp_path, model, processor, monkeypatch):
    refusal = ValueError("of the main process")
    monkeypatch.setattr(writing, "broadcast_object_list", lambda problems: [refusal])
    monkeypatch.setattr(writing, "PartialState", lambda: SimpleNamespace(is_main_process=False))
    with pytest.raises(ValueError, match="of the main process"):
        writer(tmp_path, model, processor).write(WORLD)
    assert not [*tmp_path.iterdir()]


def test_nothing_in_a_folder_is_touched_but_what_a_cache_has_written(tmp_path, model, processor):
    (tmp_path / "_build").mkdir()
    for name in ("__init__.py", "_notes.json.bak", "features-of-the-road.txt"):
        (tmp_path / name).write_text("mine")
    before = set(tmp_path.iterdir())
    writer(tmp_path, model, processor).write(WORLD)
    assert before < set(tmp_path.iterdir()) and (tmp_path / "__init__.py").read_text() == "mine"


def test_a_cache_of_another_tower_is_left_as_it_is(tmp_path, model, processor):
    writer(tmp_path, model, processor).write(WORLD)
    next(tmp_path.glob("features-*")).write_bytes(b"damaged")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.model.vision_tower.pre_layrnorm.bias.data[0] += 1e-3
    with pytest.raises(ValueError, match="holds other features"):
        writer(tmp_path, model, processor).write(WORLD)
    (tmp_path / "key.json").unlink()
    with pytest.raises(ValueError, match="holds files of another origin, such as index.json"):
        writer(tmp_path, model, processor).write(WORLD)
    del before["key.json"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_samples_are_added_and_shared_clips_are_kept_once_in_a_block(tmp_path, model, processor):
    again = replace(WORLD[0], id="again", question="What else?")
    assert writer(tmp_path, model, processor).write([WORLD[0], again, WORLD[1]]) == {"made": 2, "cache": 2}
    other = MicroWorld(WORLD.config, "validation", 3)
    assert writer(tmp_path, model, processor).write(other) == {"made": 3, "cache": 5}
    assert len(cached(tmp_path, [again, other[2], WORLD[1]], model, processor)) == 3


def change_weight(model, processor):
    model.model.vision_tower.pre_layrnorm.bias.data[0] += 1e-3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weight, "vision tower"),
        (lambda model, processor: setattr(model.model.vision_tower.config, "hidden_act", "gelu"), "hidden_act"),
        (lambda model, processor: setattr(model.config, "vision_feature_layer", -1), "layer must be '-1', got '-2'"),
        (
            lambda model, processor: setattr(processor.video_processor, "num_frames", 8),
            "num_frames must be '8', got '5'",
        ),
        (lambda model, processor: setattr(processor.video_processor, "fps", 4.0), "fps must be '4.0', got '2.0'"),
        (lambda model, processor: setattr(processor.video_processor, "image_std", [1, 1, 1]), "image_std"),
    ],
)
def test_features_of_another_tower_or_sampling_are_refused(tmp_path, change, named):
    torch.manual_seed(0)
    model, processor = tiny_model(), tiny_processor(chat_template=SHORT_TEMPLATE)
    writer(tmp_path, model, processor).write(WORLD)
    change(model, processor)
    with pytest.raises(ValueError, match=f"are stale and are not used: .*{named}"):
        cached(tmp_path, WORLD, model, processor)
    with pytest.raises(ValueError, match=f"holds other features: .*{named}.* Name another folder"):
        writer(tmp_path, model, processor).write(WORLD)


def test_features_of_another_dtype_are_refused(tmp_path, model, processor):
    writer(tmp_path, model, processor).write(WORLD)
    wanted = feature_key(model, processor.video_processor, torch.bfloat16)
    with pytest.raises(ValueError, match="stale and are not used: .*dtype must be 'bfloat16', got 'float32'"):
        FeatureCache(tmp_path, wanted)


def test_the_key_of_a_tower_is_that_of_its_weights_in_the_dtype_of_the_cache(model, processor):
    half = tiny_model()
    half.load_state_dict(model.state_dict())
    keys = [feature_key(m, processor.video_processor, torch.bfloat16) for m in (model, half.to(torch.bfloat16))]
    assert keys[0] == keys[1] != feature_key(model, processor.video_processor, torch.float32)


def test_a_clip_that_has_changed_is_refused_by_name(tmp_path, model, processor):
    path = tmp_path / "clip.mp4"
    write_video(path, WORLD[0].frames)
    clip = Sample("clip", "Q?", "A", video=path)
    writer(tmp_path / "cache", model, processor).write([clip, WORLD[1]])
    assert len(cached(tmp_path / "cache", [WORLD[1], clip], model, processor)) == 2
    write_video(path, WORLD[2].frames)
    with pytest.raises(
        ValueError, match="stale .*: 1 of 1 samples are not there, such as clip: its frames have chang"
    ):
        cached(tmp_path / "cache", [clip], model, processor)
    with pytest.raises(ValueError, match=r"such as \S*-000004: it was not there when the cache was made"):
        cached(tmp_path / "cache", [WORLD[4]], model, processor)


def test_the_hash_of_a_clip_tells_its_pictures_and_its_moment(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, WORLD[0].frames)
    file = Sample("a", "Q?", "A", video=path)
    hashes = [
        describe_sample([sample], 0)[1]
        for sample in (
            file,
            replace(file, video=path.read_bytes()),
            replace(file, video=str(path), id="b", question="Else?"),
            replace(file, timestamp=1.0),
            WORLD[0],
            replace(WORLD[0], frames=WORLD[0].frames[1:]),
            replace(WORLD[0], frames=WORLD[0].frames[::-1]),
        )
    ]
    assert hashes[0] == hashes[1] == hashes[2] and len(set(hashes)) == 5


def test_the_hash_of_a_clip_tells_the_colours_of_its_palette_and_what_shows_through():
    def hash_of(picture):
        return describe_sample([Sample("a", "Why?", "so", frames=[picture])], 0)[1]

    shades = []
    for colour in ((255, 0, 0), (0, 255, 0)):
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([0, 0, 0, *colour])
        shades.append(picture)
    assert hash_of(shades[0]) != hash_of(shades[1])
    assert hash_of(shades[0]) == hash_of(shades[0].convert("RGB"))
    grey = Image.new("L", (8, 8), 5)
    clear = grey.copy()
    clear.info["transparency"] = 5
    assert hash_of(grey) != hash_of(clear)


def test_rows_are_described_without_decoding(tmp_path):
    write_drama(tmp_path / "drama", WORLD.config, {"train": 3})
    write_bddx(tmp_path / "bddx", WORLD.config, {"train": 3})
    for name in ("drama", "bddx"):
        samples = load_samples(str(tmp_path / name), "train")
        described = [describe_sample(samples, index) for index in range(3)]
        for index, (sample, _) in enumerate(described):
            assert replace(samples[index], frames=None, video=b"") == sample
        assert len({content for _, content in described}) == 3
        rows = load_dataset(str(tmp_path / name), split="train")
        assert describe_sample(RowSamples(undecoded(rows), "train"), 1) == described[1]


def test_bad_samples_are_skipped_with_a_count_or_stop(tmp_path, model, processor):
    (tmp_path / "damaged.mp4").write_bytes(b"no video at all")
    missing = Sample("missing", "Q?", "A", video=tmp_path / "nowhere.mp4")
    damaged = Sample("damaged", "Q?", "A", video=tmp_path / "damaged.mp4")
    samples = [WORLD[0], missing, damaged, WORLD[1]]
    with pytest.raises(ValueError, match="nowhere.mp4.*--on_error skip"):
        writer(tmp_path / "stop", model, processor).write(samples)
    skipping = writer(tmp_path / "skip", model, processor, "skip")
    assert skipping.write(samples) == {"made": 2, "cache": 2}
    assert set(skipping.bad.skipped()) == {"sample number 1", "sample damaged"}
    read = cached(tmp_path / "skip", samples, model, processor)
    assert read[3].frame_features.shape == (5, 4, 32)
    for index, reason in ((1, "nowhere.mp4"), (2, "damaged")):
        with pytest.raises(ValueError, match=reason):
            read[index]


def test_what_could_not_be_read_is_tried_again(tmp_path, model, processor, monkeypatch):
    folder, samples = tmp_path / "cache", [WORLD[0], Sample("shaky", "Q?", "A", video=b"a video"), WORLD[1]]
    assert writer(folder, model, processor, "skip").write(samples) == {"made": 2, "cache": 2}
    with pytest.raises(ValueError, match="sample shaky: .*--on_error skip"):
        writer(folder, model, processor, "stop").write(samples)
    (folder / "_index.json.7").write_text("left by a kill")
    before = cached(folder, samples, model, processor)[2].frame_features
    prepare = type(processor.video_processor).__call__

    def mended(self, videos, **options):
        return prepare(self, [WORLD[2].frames if videos == [b"a video"] else videos[0]], **options)

    monkeypatch.setattr(type(processor.video_processor), "__call__", mended)
    assert writer(folder, model, processor, "stop").write(samples) == {"made": 1, "cache": 3}
    assert writer(folder, model, processor, "stop").write(samples) == {"made": 0, "cache": 3}
    read = cached(folder, samples, model, processor)
    assert torch.equal(read[2].frame_features, before) and read[1].frame_features.shape == before.shape
    assert not list(folder.glob("_*"))


def test_features_that_are_not_finite_are_an_error(tmp_path, model, processor):
    broken = writer(tmp_path, model, processor)
    broken.encode = lambda pixels: torch.full((1, pixels.shape[1], 4, 32), torch.nan)
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity for sample number 0"):
        broken.write(WORLD)
    assert not list(tmp_path.glob("features-*"))


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, model, processor, monkeypatch):
    calls = []

    def fill_up(path, data):
        calls.append(path)
        if len(calls) == 2:
            write(path, b"half")
            raise OSError(28, "No space left on device")
        return write(path, data)

    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(
        OSError, match=r"features-.* could not be written, .* MiB are free: .*No space left.*files before it are whole"
    ):
        writer(tmp_path, model, processor).write(WORLD)
    assert len(list(tmp_path.glob("*features-*"))) == 1 and not (tmp_path / "index.json").exists()
    assert writer(tmp_path, model, processor).write(WORLD)["made"] == 2


@pytest.mark.parametrize("harm", ["missing", "cut off", "empty"])
def test_a_cache_that_is_not_whole_any_more_is_refused_and_made_again(tmp_path, model, processor, harm):
    writer(tmp_path, model, processor).write(WORLD)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    damaged = sorted(tmp_path.glob("features-*"))[0]
    if harm == "missing":
        damaged.unlink()
    else:
        damaged.write_bytes(before[damaged.name][:-1] if harm == "cut off" else b"")
    with pytest.raises(ValueError, match=f"{damaged.name} of .* missing or damaged: .*`hmba cache-features` makes it"):
        cached(tmp_path, WORLD, model, processor)
    assert writer(tmp_path, model, processor).write(WORLD)["made"] in (2, 4)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_workers_decode_what_one_process_does(tmp_path, model, processor):
    for workers in (0, 1):
        writer(tmp_path / str(workers), model, processor, num_workers=workers).write(WORLD)
    for path in (tmp_path / "0").iterdir():
        assert (tmp_path / "1" / path.name).read_bytes() == path.read_bytes()


def test_a_cached_sample_holds_features_alone(model):
    with pytest.raises(ValueError, match=r"must have features \(frames, patches, channels\) alone"):
        CachedSample("a", "Q?", "A", frame_features=torch.zeros(4, 32))
    with pytest.raises(ValueError, match=r"must have features \(frames, patches, channels\) alone"):
        CachedSample("a", "Q?", "A", video=b"x", frame_features=torch.zeros(5, 4, 32))
