from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hmba_hf.data.actions.questioned import ANNOTATION, PREDICTED
from hmba_hf.data.dataset_streams import open_stream
from hmba_hf.data.loading import load_samples
from hmba_hf.data.micro_world.actions import MicroActionsConfig, opposite_action
from hmba_hf.data.micro_world.drawing import COLOURS
from hmba_hf.data.micro_world.questions import (
    GENERIC_QUESTIONS,
    HEADS,
    MICRO_DRIVING,
    MICRO_QUESTIONS,
    MicroDriving,
    MicroQuestions,
    ask_about_disc,
    ask_about_drive,
)
from hmba_hf.data.micro_world.world import EGO_EVENTS, MicroWorld, MicroWorldConfig
from hmba_hf.data.schemas import ACTIONS

CLEAN = MicroActionsConfig(seed=2, frame_size=16, num_frames=4, nuisance=0.0)
VERBS = HEADS[MICRO_QUESTIONS]["verb"]
NOUNS = HEADS[MICRO_QUESTIONS]["noun"]
ROAD = MicroWorldConfig(frame_size=32, num_frames=3)


def pixels(sample):
    return np.stack([np.asarray(frame) for frame in sample.video]).astype(int)  # (t, h, w, 3)


def pairs(samples):
    return [(sample.labels["verb"], sample.labels["noun"]) for sample in samples]


def test_the_same_seed_split_and_index_give_the_same_clip_and_questions():
    for name, world in ((MICRO_QUESTIONS, {"num_frames": 4}), (MICRO_DRIVING, {"num_frames": 3})):
        first, again = (load_samples(name, "train", 9, frame_size=32, **world)[7] for _ in range(2))
        assert first == again
        for other in (
            load_samples(name, "test", 9, frame_size=32, **world)[7],
            load_samples(name, "train", 9, frame_size=32, seed=1, **world)[7],
        ):
            assert first.id != other.id and not np.array_equal(pixels(first), pixels(other))


def test_each_verb_comes_with_each_noun_equally_often():
    world = MicroQuestions(CLEAN, size=100)
    assert set(Counter(pairs(world)).values()) == {2} and len(set(pairs(world))) == len(VERBS) * len(NOUNS)
    assert pairs(world[:50]) != pairs(world[50:])


def test_a_bond_ties_nouns_to_verbs_and_leaves_both_balanced():
    seen = np.array(pairs(MicroQuestions(CLEAN, size=500, bond=0.5)))
    assert set(Counter(seen[:, 0].tolist()).values()) == {50}
    assert min(Counter(seen[:, 1].tolist()).values()) > 70
    assert np.mean(seen[:, 0] // 2 == seen[:, 1]) == pytest.approx(0.5 + 0.5 / 5, abs=0.06)
    tied = np.array(pairs(MicroQuestions(CLEAN, size=50, bond=1.0)))
    assert np.array_equal(tied[:, 0] // 2, tied[:, 1])


def test_a_clip_run_backwards_has_the_opposite_verb_so_no_frame_and_no_set_of_frames_tells_it():
    world = MicroQuestions(CLEAN, size=3)
    for verb, name in enumerate(VERBS):
        clip = pixels(world.questioned_sample(1, verb, 2))
        reverse = pixels(world.questioned_sample(1, VERBS.index(opposite_action(name)), 2))
        assert np.array_equal(clip, reverse[::-1]) and not np.array_equal(clip, clip[::-1])


def test_neither_the_first_nor_the_last_frame_tells_a_verb():
    world = MicroQuestions(MicroActionsConfig(frame_size=16, num_frames=4), size=240)
    for place in (0, -1):
        clips = []
        for verb in (0, 1):
            frames = [np.asarray(world.questioned_sample(index, verb, 0).video[place]) for index in range(len(world))]
            clips.append(np.stack(frames).mean(-1).reshape(len(world), -1))
        left, right = clips
        towards_right = right[:160].mean(0) - left[:160].mean(0)
        middle = (right[:160].mean(0) + left[:160].mean(0)) / 2
        hits = [*((right[160:] - middle) @ towards_right > 0), *((left[160:] - middle) @ towards_right < 0)]
        assert abs(np.mean(hits) - 0.5) < 0.1


def test_any_frame_tells_the_noun_and_its_colour_is_not_that_of_the_background():
    for sample in MicroQuestions(replace(CLEAN, frame_size=32), size=50):
        colour = COLOURS[sample.label_names["noun"].split()[0]]
        for frame in pixels(sample):
            (background, _), *others = Counter(map(tuple, frame.reshape(-1, 3).tolist())).most_common()
            assert background != colour and colour in dict(others[:2])


def test_another_noun_changes_the_colours_of_a_clip_alone():
    world = MicroQuestions(CLEAN, size=1)
    first, second = (pixels(world.questioned_sample(0, 4, noun)) for noun in (0, 3))
    is_grey = (first == 128).all(-1)
    assert np.array_equal(is_grey, (second == 128).all(-1)) and is_grey.any() and not np.array_equal(first, second)


def test_annotation_questions_have_the_other_head_s_words_and_never_their_own():
    for verb in VERBS:
        for noun in NOUNS:
            asked = ask_about_disc(verb, noun)
            assert noun in asked["verb"] and verb in asked["noun"]
            assert not set(verb.split()) & set(asked["verb"].strip("?").split()) and "disc" not in asked["noun"]
    for event in range(len(EGO_EVENTS)):
        reason = HEADS[MICRO_DRIVING]["reason"][event]
        for action in HEADS[MICRO_DRIVING]["action"]:
            asked = ask_about_drive(action, reason)
            assert reason in asked["action"] and action not in asked["action"]
            assert action in asked["reason"] and reason not in asked["reason"]


def test_the_form_of_an_annotation_question_tells_two_fifths_of_the_verbs():
    """What stays when its words are hidden: a guess within the verbs of one form."""
    forms = Counter(ask_about_disc(verb, "disc")["verb"] for verb in VERBS)
    assert len(forms) / len(VERBS) == 0.4
    assert {ask_about_disc(verb, "disc")["noun"].replace(verb, "<mask>") for verb in VERBS} == {"What <mask>?"}


@pytest.mark.parametrize("errors", [0.0, 0.3, 1.0])
def test_predicted_questions_follow_a_predictor_with_the_stated_errors(errors):
    for world, ask, head in (
        (MicroQuestions(CLEAN, size=150, predictor_errors=errors), ask_about_disc, "noun"),
        (MicroDriving(MicroWorld(ROAD, size=150), errors), ask_about_drive, "action"),
    ):
        is_same = []
        for sample in world:
            annotation, predicted = (sample.questions_from(source) for source in (ANNOTATION, PREDICTED))
            assert annotation == ask(**sample.label_names) and list(predicted) == list(sample.labels)
            is_same.append(annotation[head] == predicted[head])  # it has the other head's class in it
        if errors in (0.0, 1.0):
            assert set(is_same) == {errors == 0.0}
        else:
            assert np.mean(is_same) == pytest.approx(1 - errors, abs=0.12)


def test_the_errors_of_the_predictor_change_questions_and_no_clip():
    right, wrong = (MicroQuestions(CLEAN, size=4, predictor_errors=errors)[3] for errors in (0.0, 1.0))
    assert np.array_equal(pixels(right), pixels(wrong)) and right.labels == wrong.labels
    assert right.questions_from(ANNOTATION) == wrong.questions_from(ANNOTATION)
    assert right.questions_from(PREDICTED) != wrong.questions_from(PREDICTED)


def test_drives_have_each_event_equally_often_and_a_current_frame_that_tells_none():
    world = MicroWorld(replace(ROAD, nuisance=0.0), size=10)
    drives = MicroDriving(world)
    assert set(Counter(drive.labels["reason"] for drive in drives).values()) == {2}
    actions = Counter(drive.label_names["action"] for drive in drives)
    assert actions == {"slows down": 4, "speeds up": 2, "keeps its speed": 2, "is stopped": 2}
    last = [np.asarray(world.ego_sample(3, event).frames[-1]) for event in EGO_EVENTS]
    assert all(np.array_equal(frame, np.asarray(drives[3].video[-1])) for frame in last)


def test_questions_and_drives_are_loaded_by_name_with_the_names_of_their_classes():
    samples = load_samples("micro-questions", "test", 4, frame_size=16, num_frames=4, bond=1.0, predictor_errors=0.0)
    assert len(samples) == 4 and samples.clips.split == "test"
    assert samples.bond == 1.0 and samples.predictor_errors == 0.0
    drives = load_samples("micro-driving", "validation", 3, frame_size=32, num_frames=3, predictor_errors=1.0)
    assert len(drives) == 3 and drives.predictor_errors == 1.0 and len(drives[0].video) == 3
    for name, held in (("micro-questions", samples), ("micro-driving", drives)):
        assert {head: label.names for head, label in held.features["labels"].items()} == {
            head: list(names) for head, names in HEADS[name].items()
        }
        assert list(GENERIC_QUESTIONS[name]) == list(held[0].labels) == list(HEADS[name])


def test_what_cannot_be_drawn_or_used_is_refused():
    with pytest.raises(ValueError, match=r"bond must be a share from 0 to 1, got 1\.5"):
        load_samples("micro-questions", "train", bond=1.5)
    with pytest.raises(ValueError, match="predictor_errors must be a share from 0 to 1, got -1"):
        load_samples("micro-driving", "train", predictor_errors=-1)
    with pytest.raises(ValueError, match="noun must be from 0 to 4, got 5"):
        MicroQuestions(CLEAN).questioned_sample(0, 0, 5)
    with pytest.raises(TypeError, match="bond"):
        load_samples("micro-driving", "train", bond=0.5)
    for name in ("micro-questions", "micro-driving"):
        with pytest.raises(ValueError, match=r"must be of \['actions'\], got questioned actions, 'micro-"):
            load_samples(name, "train", schemas=[ACTIONS])
        with pytest.raises(ValueError, match="must be a folder or a Hub id, got 'micro-"):
            open_stream([name], "train")
