"""What a model on a vision-language model reads of a clip, and answers, does not depend on what stands beside it."""

import pytest
import torch
from torch.testing import assert_close

from hmba_hf import HMBAVLMProcessor
from hmba_hf.models import encoding_hmba_vlm
from hmba_hf.models.encoding_hmba_vlm import read_features, split_rows
from tiny_hmba_vlm import KINDS, model_on
from tiny_vlm_bases import noisy_picture, tiny_vlm

SIZE = (40, 24)  # width, height
TEXTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "labels")


@pytest.fixture(scope="module", params=KINDS)
def vlm(request):
    return tiny_vlm(request.param)


@pytest.fixture(scope="module")
def model(vlm):
    return model_on(vlm)


@pytest.fixture(scope="module")
def processor(vlm):
    return HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")


@pytest.fixture
def encode(processor):
    """Turn prompts, in which `@` stands for a clip, into inputs, padded on the left."""

    def encode(prompts, clips, side="left"):
        texts = [prompt.replace("@", processor.video_token) for prompt in prompts]
        return dict(processor(text=texts, videos=clips, padding=True, padding_side=side, return_tensors="pt"))

    return encode


def clip(length, shade=0, size=SIZE):
    """Draw a clip whose frames differ."""
    return [noisy_picture(size, shade + number) for number in range(length)]


@torch.no_grad()
def rows_of(model, inputs):
    """Return what the language model reads of each picture."""
    of_clips = {name: value for name, value in inputs.items() if name not in TEXTS}
    output = model.model.encode_clips(**of_clips)["mm_encoder_outputs"]["image"]
    return split_rows(read_features(output, model.config.hidden_size), inputs["picture_tokens"].tolist(), None)


@torch.no_grad()
def logits_of_texts(model, inputs):
    """Return the logits of each prompt without padding."""
    logits = model(**inputs).logits
    return [of_prompt[mask.bool()] for of_prompt, mask in zip(logits, inputs["attention_mask"], strict=True)]


def answers(model, inputs):
    sequences = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
    return sequences[:, inputs["input_ids"].shape[1] :]


PROMPTS = ["@What?", "Say much more about this one: @ What is it?", "@And now?"]
CLIPS = [clip(3), clip(5, 10), clip(1, 20)]


def test_a_batch_of_clips_of_unlike_lengths_is_each_of_them_alone(model, encode):
    together = encode(PROMPTS, CLIPS)
    assert not together["attention_mask"].all(), "the prompts are padded"
    assert together["past_lengths"].tolist() == [2, 4, 0]
    logits = logits_of_texts(model, together)
    rows = rows_of(model, together)
    continued = answers(model, together)
    for number, (prompt, frames) in enumerate(zip(PROMPTS, CLIPS, strict=True)):
        alone = encode([prompt], [frames])
        assert_close(rows[number], rows_of(model, alone)[0], atol=1e-5, rtol=1e-5)
        assert_close(logits[number], logits_of_texts(model, alone)[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(continued[number], answers(model, alone)[0])


def test_padding_on_either_side_changes_no_logits(model, encode):
    left = logits_of_texts(model, encode(PROMPTS, CLIPS))
    right = logits_of_texts(model, encode(PROMPTS, CLIPS, side="right"))
    for one, other in zip(left, right, strict=True):
        assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_joined_prompts_are_those_encoded_together(model, processor, encode):
    single = [encode([prompt], [frames]) for prompt, frames in zip(PROMPTS, CLIPS, strict=True)]
    joined = processor.join(single)
    together = encode(PROMPTS, CLIPS)
    for one, other in zip(logits_of_texts(model, joined), logits_of_texts(model, together), strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_clips_of_one_prompt_are_read_each_by_itself_in_their_order(model, encode):
    clips = [clip(4, 30), clip(1, 40), clip(2, 50)]
    together = rows_of(model, encode(["@first @second @third?"], clips))
    for rows, frames in zip(together, clips, strict=True):
        assert_close(rows, rows_of(model, encode(["@"], [frames]))[0], atol=1e-5, rtol=1e-5)
    swapped = logits_of_texts(model, encode(["@first @second @third?"], clips[::-1]))[0]
    kept = logits_of_texts(model, encode(["@first @second @third?"], clips))[0]
    assert (swapped[-1] - kept[-1]).abs().max() > 1e-3


def test_prompts_of_several_clips_in_a_batch_are_each_of_them_alone(model, encode):
    prompts = ["@first @second?", "@What is it, in a longer question?"]
    clips = [[clip(2, 60), clip(3, 70)], [clip(4, 80)]]
    together = encode(prompts, clips)
    logits = logits_of_texts(model, together)
    for found, prompt, of_prompt in zip(logits, prompts, clips, strict=True):
        assert_close(found, logits_of_texts(model, encode([prompt], of_prompt))[0], atol=1e-4, rtol=1e-4)


def test_clips_of_unlike_frame_sizes_in_a_batch_are_each_of_them_alone(model, encode):
    clips = [clip(3, 90, (64, 48)), clip(2, 100, (32, 32))]
    together = encode(["@What?", "@What?"], clips)
    logits = logits_of_texts(model, together)
    for found, frames in zip(logits, clips, strict=True):
        assert_close(found, logits_of_texts(model, encode(["@What?"], [frames]))[0], atol=1e-4, rtol=1e-4)


def test_rows_of_frames_in_the_place_of_earlier_pixels_change_nothing(model, encode):
    together = encode(PROMPTS[:2], CLIPS[:2])
    past = {name for name in together if name.startswith("past_")}
    alone = {name: value for name, value in together.items() if name not in past}
    features = []
    with torch.no_grad():
        for frames in CLIPS[:2]:
            of_frames = encode(["@"] * len(frames), [[frame] for frame in frames])
            pictures = {name: of_frames[name] for name in ("pixel_values", "image_grid_thw") if name in of_frames}
            features.append(torch.stack(model.get_frame_features(of_frames["picture_tokens"], **pictures)))
    found = logits_of_texts(model, {**alone, "frame_features": features})
    for one, other in zip(found, logits_of_texts(model, together), strict=True):
        assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_many_earlier_frames_are_encoded_in_parts_and_read_as_at_once(model, encode, monkeypatch):
    inputs = encode(["@ a", "b @"], [clip(4), clip(3, shade=5)])
    wanted = rows_of(model, inputs)
    encoded = []
    encoder = model.model.get_image_features

    def encode_and_count(**pictures):
        output = encoder(**pictures)
        encoded.append(len(read_features(output, model.config.hidden_size)))
        return output

    monkeypatch.setattr(model.model, "get_image_features", encode_and_count)
    monkeypatch.setattr(encoding_hmba_vlm, "AT_ONCE", 2)
    for rows, expected in zip(rows_of(model, inputs), wanted, strict=True):
        assert_close(rows, expected)
    assert encoded in ([2, 2, 2, 1], [2, 5])  # SmolVLM's pictures come prompt by prompt
    with torch.enable_grad():
        encoded.clear()
        model(**inputs)
        assert encoded == [2, 5]
