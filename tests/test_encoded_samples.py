import errno
import json
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hmba_hf.data.bad_samples import BadSamples, UnreadableSample
from hmba_hf.data.encoded_samples import EncodedSamples, EncodedStream, evaluation_samples, readable_samples
from hmba_hf.data.feature_cache.reading import CachedSamples
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.samples import Sample
from hmba_hf.tasks.answering.collator import SampleCollator
from tiny_bases import SHORT_TEMPLATE
from tiny_processors import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "train", 5)
COLLATOR = SampleCollator(tiny_processor(chat_template=SHORT_TEMPLATE))


class Samples(list):
    """Samples, or what goes wrong when one is read."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        if isinstance(sample, Exception):
            raise sample
        return sample


def bad_ones(tmp_path):
    """A missing video, one that is none, a row that makes no sample, and one picture cut off."""
    (tmp_path / "damaged.mp4").write_bytes(b"no video at all")
    Image.new("RGB", (32, 32)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    return {
        "missing": Sample("missing", "Q?", "A", video=tmp_path / "nowhere.mp4"),
        "damaged": Sample("damaged", "Q?", "A", video=tmp_path / "damaged.mp4"),
        "row": ValueError("sample row must have one <box> for each box, got 1 for 0"),
        "cut": Sample("cut", "Q?", "A", frames=[Image.open(tmp_path / "cut.png")]),
    }


@pytest.mark.parametrize("name", ["missing", "damaged", "row", "cut"])
def test_a_bad_sample_stops_the_run_by_name(tmp_path, name):
    samples = Samples([WORLD[0], bad_ones(tmp_path)[name]])
    encoded = EncodedSamples(samples, COLLATOR, BadSamples("stop"))
    assert len(encoded) == 2 and encoded[0]["labels"].ndim == 1
    with pytest.raises(ValueError, match=rf"sample {name}(:| must) .*--on_error skip leaves such samples out"):
        encoded[1]


def test_the_next_readable_sample_takes_the_place_of_a_bad_one(tmp_path):
    bad = bad_ones(tmp_path)
    samples = Samples([WORLD[0], bad["missing"], bad["row"], WORLD[3], bad["cut"]])
    met = BadSamples("skip", tmp_path / "run" / "bad_samples.jsonl")
    encoded = EncodedSamples(samples, COLLATOR, met)
    places = [0, 3, 3, 3, 0]
    for _ in range(2):
        for place, index in enumerate(places):
            wanted = COLLATOR.encode(WORLD[index])
            assert all(torch.equal(value, wanted[key]) for key, value in encoded[place].items())
    skipped = met.skipped()
    assert set(skipped) == {"sample missing", "sample number 2", "sample cut"}, "each once, whatever the epochs"
    assert "nowhere.mp4" in skipped["sample missing"] and "one <box> for each box" in skipped["sample number 2"]
    met.forget()
    assert met.skipped() == {}


def caused_by(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        TypeError("encode() got an unexpected keyword"),
        KeyError("frames"),
        AttributeError("no such thing"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        caused_by(UnreadableSample("not a video", "sample a"), OSError(errno.EMFILE, "Too many open files")),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:40],
)
def test_what_no_file_can_cause_ends_a_run_that_skips_bad_samples(tmp_path, error):
    bad = BadSamples("skip", tmp_path / "bad.jsonl")
    samples = Samples([WORLD[0], error])
    for read in (
        lambda: EncodedSamples(samples, COLLATOR, bad)[1],
        lambda: list(islice(EncodedStream(Passages(samples), COLLATOR, bad), 3)),
        lambda: readable_samples(samples, COLLATOR, bad),
        lambda: CachedSamples(samples, None),
    ):
        with pytest.raises(type(error)) as raised:
            read()
        assert raised.value is error
    assert bad.skipped() == {}


def test_samples_end_and_are_counted_from_either_end():
    encoded = EncodedSamples(WORLD, COLLATOR, BadSamples("stop"))
    assert len(list(islice(encoded, 9))) == 5
    assert torch.equal(encoded[-1]["input_ids"], encoded[4]["input_ids"])
    for index in (5, -6, 1000):
        with pytest.raises(IndexError, match=f"an index must be from -5 to 4, got {index}"):
            encoded[index]
    with pytest.raises(IndexError, match="got 0"):
        EncodedSamples([], COLLATOR, BadSamples("skip"))[0]


def test_nothing_but_bad_samples_is_an_error(tmp_path):
    met = BadSamples("skip", tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match="at least one sample must be readable, got none"):
        EncodedSamples(Samples(bad_ones(tmp_path).values()), COLLATOR, met)[1]


def test_a_record_that_was_cut_off_by_a_kill_is_read_as_far_as_it_goes(tmp_path):
    record = tmp_path / "bad.jsonl"
    record.write_text(json.dumps({"sample": "a", "reason": "b"}) + '\n{"sample": "c", "rea')
    bad = BadSamples("skip", record)
    assert bad.skipped() == {"a": "b"}
    bad.meet("d", ValueError("e"))
    assert bad.skipped() == {"a": "b", "d": "e"}


def test_an_unknown_policy_is_an_error():
    with pytest.raises(ValueError, match=r"bad samples must be one of \['stop', 'skip'\], got 'ignore'"):
        BadSamples("ignore")


def test_a_sample_that_is_too_long_is_bad_and_never_cut(tmp_path):
    length = len(COLLATOR.encode(WORLD[0])["input_ids"])
    exact, short = (SampleCollator(COLLATOR.processor, max_length=most) for most in (length, length - 1))
    assert len(exact.encode(WORLD[0])["input_ids"]) == length
    with pytest.raises(
        ValueError, match=rf"sample {WORLD[0].id} must have at most max_length={length - 1} tokens, got {length}"
    ):
        short.encode(WORLD[0])
    met = BadSamples("skip", tmp_path / "bad.jsonl")
    brief = replace(WORLD[1], answer="No.", boxes=(), labels=())
    assert len(EncodedSamples([WORLD[0], brief], short, met)[0]["labels"]) < length
    assert list(met.skipped()) == [f"sample {WORLD[0].id}"]


def test_only_readable_samples_are_evaluated(tmp_path):
    samples = Samples([WORLD[0], *bad_ones(tmp_path).values(), WORLD[2]])
    assert readable_samples(samples, COLLATOR, BadSamples("skip")) == [0, 5]
    with pytest.raises(ValueError, match="sample missing"):
        readable_samples(samples, COLLATOR, BadSamples("stop"))
    assert len(evaluation_samples(samples, COLLATOR, BadSamples("skip"), "validation")) == 2
    unreadable = Samples([*bad_ones(tmp_path).values()])
    with pytest.raises(ValueError, match="at least one sample that can be read, got none in 'validation'"):
        evaluation_samples(unreadable, COLLATOR, BadSamples("skip"), "validation")


class Passages:
    """A stream of samples that notes its epochs."""

    def __init__(self, samples):
        self.samples, self.epochs = Samples(samples), []

    def passage(self, epoch):
        self.epochs.append(epoch)
        for index in range(len(self.samples)):
            yield lambda index=index: self.samples[index]


def test_a_stream_goes_on_without_end_and_leaves_out_what_is_bad(tmp_path):
    bad = bad_ones(tmp_path)
    stream = Passages([WORLD[0], bad["damaged"], bad["row"], WORLD[1]])
    encoded = iter(EncodedStream(stream, COLLATOR, BadSamples("skip", tmp_path / "bad.jsonl")))
    wanted = [COLLATOR.encode(WORLD[index])["input_ids"] for index in (0, 1)]
    for step in range(5):
        assert torch.equal(next(encoded)["input_ids"], wanted[step % 2])
    assert stream.epochs == [0, 1, 2]


def test_a_stream_of_nothing_but_bad_samples_is_an_error(tmp_path):
    stream = Passages(bad_ones(tmp_path).values())
    with pytest.raises(ValueError, match="at least one sample must be readable, got none"):
        next(iter(EncodedStream(stream, COLLATOR, BadSamples("skip"))))
    assert list(EncodedStream(Passages([]), COLLATOR, BadSamples("skip"))) == [], "as in a worker without rows"


NAMED = [SimpleNamespace(id=str(number)) for number in range(4)]


class Drawing:
    """An encoder that draws a number for each sample."""

    def encode(self, sample, generator):
        return {"number": torch.rand((), generator=generator, dtype=torch.float64)}


def test_what_a_sample_draws_depends_on_seed_epoch_and_index_alone():
    encoded = EncodedSamples(NAMED, Drawing(), BadSamples("stop"), seed=1)
    first = [float(encoded[index]["number"]) for index in range(4)]
    assert len(set(first)) == 4
    torch.rand(3)
    assert [float(encoded[index]["number"]) for index in reversed(range(4))] == first[::-1]
    encoded.set_epoch(1)
    second = [float(encoded[index]["number"]) for index in range(4)]
    assert not set(first) & set(second)
    other = EncodedSamples(NAMED, Drawing(), BadSamples("stop"), seed=2)
    assert not set(first) & {float(other[index]["number"]) for index in range(4)}


def test_workers_that_outlive_an_epoch_draw_anew():
    encoded = EncodedSamples(NAMED, Drawing(), BadSamples("stop"), seed=1)
    loader = DataLoader(encoded, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        encoded.set_epoch(epoch)
        assert [float(row["number"]) for row in loader] == [float(encoded[index]["number"]) for index in range(4)]
