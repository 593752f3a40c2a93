"""Which failures are a sample's, and which are a mistake of the program that ends every run."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from hmba_hf.data.bad_samples import BadSamples, UnreadableSample
from hmba_hf.data.driving.released_layout import DriveConverter, plan_actions, plan_sentences
from hmba_hf.data.encoded_samples import EncodedSamples, EncodedStream, readable_samples
from hmba_hf.data.feature_cache.reading import CachedSamples, FeatureCache
from hmba_hf.data.feature_cache.writing import FeatureWriter
from hmba_hf.data.loading import RowSamples, read_row
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.data.preparing.converting import MEDIA_UNREADABLE
from hmba_hf.data.samples import SampleSequence
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.generation import answer_batches
from tiny_bases import SHORT_TEMPLATE
from tiny_models import tiny_model
from tiny_processors import tiny_processor

WORLD = MicroWorld(MicroWorldConfig(frame_size=32), "train", 4)
PROCESSOR = tiny_processor(chat_template=SHORT_TEMPLATE)
COLLATOR = SampleCollator(PROCESSOR)


class Mistaken(SampleSequence):
    """Samples of which the second cannot be read, for a reason of its own."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return len(WORLD)

    def read_sample(self, index):
        if index == 1:
            raise self.error
        return WORLD[index]


class Passages:
    def __init__(self, samples):
        self.samples = samples

    def passage(self, epoch):
        return ((lambda index=index: self.samples[index]) for index in range(len(self.samples)))


def skipping(folder):
    return BadSamples("skip", folder / "bad.jsonl")


def write_features(samples, folder):
    encode = torch.no_grad()(tiny_model().get_frame_features)
    FeatureWriter(folder, {}, encode, PROCESSOR.video_processor, skipping(folder)).write(samples)


def read_features(samples, folder):
    write_features(WORLD, folder)
    CachedSamples(samples, FeatureCache(folder, {}))


def read_through(samples, folder):
    encoded = EncodedSamples(samples, COLLATOR, skipping(folder))
    return [encoded[index] for index in range(len(encoded))]


def read_stream(samples, folder):
    stream = iter(EncodedStream(Passages(samples), COLLATOR, skipping(folder)))
    return [next(stream) for _ in range(3)]


SKIPPING_RUNS = {
    "training": read_through,
    "training on a stream": read_stream,
    "evaluation while training": lambda samples, folder: readable_samples(samples, COLLATOR, skipping(folder)),
    "answering": lambda samples, folder: list(
        answer_batches(tiny_model(), PROCESSOR, samples, [[0, 1, 2]], on_error="skip", max_new_tokens=1)
    ),
    "caching features": write_features,
    "reading cached features": read_features,
}
MISTAKES = [TypeError, AttributeError, NameError, KeyError, IndexError, AssertionError, RuntimeError, SyntaxError]


@pytest.mark.parametrize("error", MISTAKES)
@pytest.mark.parametrize("run", SKIPPING_RUNS.values(), ids=SKIPPING_RUNS)
def test_a_mistake_of_the_program_ends_a_run_that_skips(run, error, tmp_path):
    with pytest.raises(error, match="a mistake"):
        run(Mistaken(error("a mistake")), tmp_path)


@pytest.mark.parametrize("run", SKIPPING_RUNS.values(), ids=SKIPPING_RUNS)
def test_a_sample_that_cannot_be_read_ends_no_run_that_skips(run, tmp_path):
    for error in (UnreadableSample("is damaged", "x"), FileNotFoundError("gone"), ValueError("misformed")):
        run(Mistaken(error), tmp_path)


@pytest.mark.parametrize("error", MISTAKES)
def test_a_mistake_while_a_sample_is_encoded_ends_a_run_that_skips(error, tmp_path, monkeypatch):
    def preprocess(*args, **kwargs):
        raise error("a mistake")

    monkeypatch.setattr(type(PROCESSOR.video_processor), "preprocess", preprocess)
    for name in ("training", "training on a stream", "evaluation while training", "answering", "caching features"):
        with pytest.raises(error, match="a mistake"):
            SKIPPING_RUNS[name](WORLD, tmp_path / name)


def picture():
    file = BytesIO()
    Image.new("RGB", (32, 24)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def drama_row(**changes):
    row = {"id": "a", "question": "Q? <box>", "answer": "A", "width": 32, "height": 24, "frames": [picture()]}
    return {**row, "objects": [{"bbox": [0.1, 0.1, 0.5, 0.5], "category": "car"}], **changes}


def bddx_row(**changes):
    row = {"video_id": "a", "segment": 1, "action": "goes", "justification": "green", "frames": None}
    return {**row, "video": {"bytes": b"video", "path": None}, **changes}


WRONG_ROWS = [
    drama_row(question=None),
    drama_row(answer=3),
    drama_row(objects=None),
    drama_row(objects={"bbox": [[0.1, 0.1, 0.5, 0.5]], "category": ["car"]}),
    drama_row(objects=[None]),
    drama_row(objects=[{"bbox": None, "category": "car"}]),
    drama_row(objects=[{"bbox": ["0", "0", "1", "1"], "category": "car"}]),
    drama_row(objects=[{"bbox": [0.1, 0.1, None, 0.5], "category": "car"}]),
    drama_row(objects=[{"bbox": [0, 0, 10**400, 1], "category": "car"}]),
    drama_row(objects=[{"bbox": [0.1, 0.1, 0.5, 0.5]}]),
    drama_row(width=None),
    drama_row(height="24"),
    drama_row(frames="pictures"),
    drama_row(frames=[None]),
    drama_row(frames=[{"bytes": None, "path": None}]),
    drama_row(frames=[{"bytes": "text", "path": None}]),
    drama_row(frames=[3]),
    drama_row(tags="risk"),
    drama_row(tags=[None]),
    bddx_row(action=None),
    bddx_row(justification=5),
    bddx_row(segment="one"),
    bddx_row(video="drive.mp4"),
    bddx_row(video={"bytes": None, "path": None}),
    bddx_row(tags=3),
]


@pytest.mark.parametrize("row", WRONG_ROWS)
def test_a_row_with_values_of_other_types_is_unreadable_by_name(row):
    for read in (lambda: read_row(row, "train"), lambda: RowSamples([row], "train").without_pictures(0)):
        with pytest.raises(UnreadableSample, match=r"a(_1|_one)?\b"):
            read()


def test_a_row_that_claims_a_huge_picture_takes_no_memory_where_it_is_not_decoded():
    sample, files = RowSamples([drama_row(width=10**6, height=10**6)], "train").without_pictures(0)
    assert sample.size == (10**6, 10**6) and len(files) == 1
    with pytest.raises(UnreadableSample, match="frames of one size"):
        read_row(drama_row(width=10**6, height=10**6), "train")


@pytest.mark.parametrize("damage", [b"", b"no picture", picture()["bytes"][:50]])
def test_a_damaged_picture_of_a_row_is_unreadable_by_name(damage):
    with pytest.raises(UnreadableSample, match="sample a: the picture in bytes cannot be read as a picture"):
        read_row(drama_row(frames=[{"bytes": damage, "path": None}]), "train")


LINES = [
    "3",
    "[]",
    "{}",
    '{"id": 1, "image": "1.jpg", "conversations": null}',
    '{"id": 1, "image": "1.jpg", "conversations": {"from": "human"}}',
    '{"id": 1, "image": "1.jpg", "conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": null}]}',
    '{"id": 1, "image": "1.jpg", "conversations": ["human", "gpt"]}',
    '{"img_path": 3, "expression": null, "bbox": 3}',
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_release_with_values_of_other_types_is_dropped(line, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(line)
    assert plan_actions({"train": [path, path]}).entries == []
    assert plan_sentences({"train": path}).entries == []


@pytest.mark.parametrize("error", MISTAKES)
def test_a_mistake_while_a_release_is_read_is_no_malformed_line(error, tmp_path, monkeypatch):
    def mistaken(*args):
        raise error("a mistake")

    turns = '[{"from": "human", "value": "<image> why?"}, {"from": "gpt", "value": "green"}]'
    (tmp_path / "lines.jsonl").write_text(f'{{"id": 1, "image": "1.jpg", "conversations": {turns}}}')
    monkeypatch.setattr("hmba_hf.data.driving.released_layout.is_unicode", mistaken)
    with pytest.raises(error, match="a mistake"):
        plan_actions({"train": [tmp_path / "lines.jsonl"] * 2})


def test_pictures_that_no_encoder_takes_are_dropped_by_name(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("1_p1", "1"):
        Image.new("RGB", (8, 16400)).save(tmp_path / "train" / f"{name}.jpg")
    turns = '[{"from": "human", "value": "<image> why?"}, {"from": "gpt", "value": "green"}]'
    (tmp_path / "lines.jsonl").write_text(f'{{"id": 1, "image": "1.jpg", "conversations": {turns}}}')
    plan = plan_actions({"train": [tmp_path / "lines.jsonl"] * 2})
    (outcome,) = DriveConverter(tmp_path, 2, 2.0, None, False)(plan.entries)
    assert outcome.reason == MEDIA_UNREADABLE and "8 x 16400 pixels" in outcome.detail
