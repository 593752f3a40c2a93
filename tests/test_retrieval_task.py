"""Pairs of videos and texts are ranked, predicted to files, scored and shown on cards."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.data.captions.samples import CaptionSample, caption_features, from_caption_row
from hmba_hf.data.loading import load_samples
from hmba_hf.evaluation.predicting import predict_splits
from hmba_hf.families import family_of, find_task
from hmba_hf.hub import save_checkpoint
from hmba_hf.metrics.bootstrap import DEFAULT_BOOTSTRAP
from hmba_hf.tasks.retrieval.gallery import UNREAD, build_gallery, rank_pairs, reranked
from hmba_hf.tasks.retrieval.prediction import PredictionArguments
from numbered_videos import numbered_video
from tiny_pairs import tiny_pair_processor, tiny_retrieval
from tiny_runs import run_example

CAPTIONS = ["a square moves left", "a disc turns", "the bar grows", "it shrinks", "a square moves left"]


def drawn_pairs(captions=CAPTIONS):
    pairs = []
    for number, caption in enumerate(captions):
        colour = (50 * number, 200 - 40 * number, 30 * number)
        frames = tuple(Image.new("RGB", (16, 16), colour) for _ in range(3))
        pairs.append(CaptionSample(f"pair {number}", frames, caption))
    return pairs


@pytest.fixture
def gallery_of():
    model = tiny_retrieval()
    processor = tiny_pair_processor()

    def build(pairs, **options):
        return model, build_gallery(model, processor, pairs, **{"batch_size": 2, "on_error": "stop", **options})

    return build


def test_features_in_batches_are_those_of_each_pair_alone(gallery_of):
    pairs = drawn_pairs()
    _, together = gallery_of(pairs, reads_together=True)
    for number, pair in enumerate(pairs):
        _, alone = gallery_of([pair], reads_together=True)
        for name in ("video_embeds", "text_embeds", "patches", "text_states"):
            torch.testing.assert_close(getattr(together, name)[number], getattr(alone, name)[0])


def test_equal_texts_and_equal_videos_fit_one_another(gallery_of):
    pairs = drawn_pairs()
    pairs[3] = replace(pairs[3], video_id="pair 2")
    _, gallery = gallery_of(pairs, reads_together=False)
    wanted = np.eye(5, dtype=bool)
    wanted[0, 4] = wanted[4, 0] = True
    wanted[2, 3] = wanted[3, 2] = True
    assert (gallery.matches() == wanted).all()


def test_the_best_pairs_are_read_together_and_no_others(gallery_of):
    model, gallery = gallery_of(drawn_pairs(), reads_together=True)
    scores = gallery.similarities()
    to_texts, to_videos = reranked(model, gallery, scores, num_read=2, batch_size=3)
    assert ((to_texts != UNREAD).sum(dim=1) == 2).all()
    assert ((to_videos != UNREAD).sum(dim=1) == 2).all()
    best = scores.topk(2, dim=1).indices
    for video in range(5):
        for text in best[video].tolist():
            logits = model.match(gallery.text_states[text][None], gallery.patches[video][None])
            torch.testing.assert_close(to_texts[video, text], logits[0, 1], rtol=1e-4, atol=1e-5)
    whole, _ = reranked(model, gallery, scores, num_read=99, batch_size=7)
    assert (whole != UNREAD).all()


def test_ranks_name_the_best_items(gallery_of):
    _, gallery = gallery_of(drawn_pairs(["a", "the", "it"]), reads_together=False)
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.1, 0.2, 0.3]])
    found = rank_pairs(gallery, scores, scores.T)
    assert [row["text_rank"] for row in found] == [1, 2, 1]
    assert [row["video_rank"] for row in found] == [1, 1, 1]
    assert found[1]["texts"] == ["pair 0", "pair 1", "pair 2"]


@pytest.fixture
def dataset(tmp_path):
    """A folder with a dataset of captions, one of its videos broken."""
    rows = []
    for number, caption in enumerate(CAPTIONS[:4]):
        video = {"bytes": numbered_video(4, first=7 * number), "path": None}
        rows.append({"id": str(number), "video": video, "caption": caption, "video_id": None})
    rows.append({**rows[0], "id": "broken", "video": {"bytes": b"no video", "path": None}})
    folder = tmp_path / "captions"
    folder.mkdir()
    datasets.Dataset.from_list(rows, features=caption_features()).to_parquet(folder / "test.parquet")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoint"
    tiny_retrieval().save_pretrained(folder)
    tiny_pair_processor().save_pretrained(folder)
    return folder


def test_rows_of_captions_are_read(dataset):
    samples = load_samples(str(dataset), "test")
    assert [samples[number].caption for number in range(4)] == CAPTIONS[:4]
    assert samples[0].split == "test"


def test_a_split_is_predicted_and_scored_both_ways(dataset, checkpoint, tmp_path):
    task = find_task("retrieval")
    arguments = PredictionArguments(
        model=str(checkpoint),
        dataset_name=str(dataset),
        output_dir=str(tmp_path / "found"),
        on_error="skip",
        batch_size=2,
        num_read=3,
    )
    lines = predict_splits(arguments, task).read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["error"] is None for record in records] == [True] * 4 + [False]
    good = records[:4]
    for record in good:
        task.check_record(record)
    scorer = task.scorer(good, DEFAULT_BOOTSTRAP)
    values = scorer.score(range(4)).values
    ranks = [record["answer"]["features"]["video_rank"] for record in good]
    assert values["text_to_video_recall_at_1"] == np.mean([rank == 1 for rank in ranks])
    assert values["text_to_video_median_rank"] == np.median(ranks)
    assert values["video_to_text_recall_at_5"] == 1.0
    assert set(task.metrics) <= values.keys()
    assert len(scorer.each()) == 4


def test_the_program_that_evaluates_scores_pairs(dataset, checkpoint, tmp_path):
    words = ["--model", checkpoint, "--dataset_name", dataset, "--on_error", "skip", "--draws", 5]
    run_example("evaluate.py", *words, "--output_dir", tmp_path / "scores", "--device_map", "cpu")
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert metrics["task"] == "retrieval" and metrics["samples"]["answered"] == 4
    assert metrics["scores"].keys() >= {"text_to_video_recall_at_1", "video_to_text_median_rank"}
    predictions = [json.loads(line) for line in (tmp_path / "scores" / "predictions.jsonl").open()]
    assert [one["reference"] for one in predictions[:4]] == CAPTIONS[:4]


def test_a_broken_video_stops_a_run_by_its_name(dataset, checkpoint, tmp_path):
    arguments = PredictionArguments(
        model=str(checkpoint), dataset_name=str(dataset), output_dir=str(tmp_path / "found"), num_read=0
    )
    with pytest.raises(ValueError, match="broken"):
        predict_splits(arguments, find_task("retrieval"))


def test_a_model_of_pairs_is_of_its_own_family():
    family = family_of(tiny_retrieval())
    assert (family.task, family.auto_class) == ("retrieval", "AutoModel")
    assert all(family.part_of(name) for name, _ in tiny_retrieval().named_parameters())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "video": {"bytes": b"x", "path": None}, "caption": " "}, "must have a caption"),
        ({"id": "a", "video": {"bytes": b"x", "path": None}, "caption": 3}, "caption"),
        ({"id": "a", "video": None, "caption": "it"}, "a video"),
    ],
)
def test_rows_without_a_pair_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        from_caption_row(row)


@pytest.mark.parametrize("caption", [None, 3, float("nan"), " "])
def test_a_pair_without_a_text_is_refused(caption):
    with pytest.raises(ValueError, match=f"sample a must have a caption, got {caption!r}"):
        CaptionSample("a", "a.mp4", caption)


def test_a_card_shows_how_pairs_are_compared(tmp_path):
    save_checkpoint(tmp_path / "saved", tiny_retrieval(), tiny_pair_processor())
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "logits_per_video" in card
    assert "pipeline_tag: feature-extraction" in card
    assert (tmp_path / "saved" / "processing_videomamba.py").exists()
