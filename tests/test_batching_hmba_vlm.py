import pytest
import torch

from hmba_hf import HMBAVLMProcessor
from hmba_hf.models.batching_hmba_vlm import join_inputs
from tiny_vlm_bases import BASES, noisy_picture, pieces_of


def clip(length, size=(40, 24), shade=0):
    return [noisy_picture(size, shade + number) for number in range(length)]


@pytest.mark.parametrize("name", BASES)
def test_inputs_of_single_prompts_join_to_those_of_their_batch(name):
    processor = HMBAVLMProcessor(pieces_of(name)[1])
    token = processor.video_token
    prompts = [f"a{token}b", f"{token}cd{token}", f"e{token}"]
    clips = [[clip(3)], [clip(2, (60, 30), 20), clip(4, (40, 24), 40)], [clip(1, (24, 40), 70)]]
    for side in ("left", "right"):
        options = {"padding": True, "padding_side": side, "return_tensors": "pt"}
        batch = processor(text=prompts, videos=[one for of_prompt in clips for one in of_prompt], **options)
        singles = []
        for prompt, videos in zip(prompts, clips, strict=True):
            singles.append(dict(processor(text=[prompt], videos=videos, return_tensors="pt")))
        joined = join_inputs(singles, processor.tokenizer.pad_token_id, side)
        assert joined.keys() == batch.keys()
        for key, values in batch.items():
            assert torch.equal(joined[key], values), key
    assert (processor.join(singles)["attention_mask"] == 0)[:, 0].any()


# PaliGemma takes no text without a picture; the pixels of SmolVLM and Idefics3 have rows for prompts without one.
OTHERS = sorted(BASES.keys() - {"paligemma", "smolvlm", "idefics3"})


@pytest.mark.parametrize("name", OTHERS)
def test_a_prompt_may_lack_pictures_and_earlier_frames(name):
    processor = HMBAVLMProcessor(pieces_of(name)[1])
    token = processor.video_token
    texts = ["a", f"{token}b{token}", f"{token}c"]
    of_prompts = [[], [clip(3), clip(3, shade=9)], [clip(1)]]
    singles = []
    for text, videos in zip(texts, of_prompts, strict=True):
        singles.append(dict(processor(text=[text], videos=videos or None, return_tensors="pt")))
    joined = processor.join(singles)
    videos = [video for of_prompt in of_prompts for video in of_prompt]
    batch = processor(text=texts, videos=videos, padding=True, padding_side="left", return_tensors="pt")
    assert joined.keys() == batch.keys()
    for key, values in batch.items():
        assert torch.equal(joined[key], values), key


def test_features_in_the_place_of_pixels_stay_a_list():
    rows = [torch.zeros(2, 4, 8), torch.zeros(1, 6, 8), torch.ones(3, 4, 8)]
    encoded = [
        {"input_ids": torch.tensor([[5, 6]]), "frame_features": rows[:2]},
        {"input_ids": torch.tensor([[7]]), "frame_features": rows[2:]},
    ]
    joined = join_inputs(encoded, 9, "right")
    assert joined["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert all(found is wanted for found, wanted in zip(joined["frame_features"], rows, strict=True))


@pytest.mark.parametrize(
    ("encoded", "side", "message"),
    [
        ([], "left", "encoded must hold the inputs of at least one prompt, got none"),
        ([{"input_ids": torch.ones(1, 2)}], "middle", "padding_side must be 'left' or 'right', got 'middle'"),
        (
            [{"pixel_values": torch.ones(1, 3)}, {"pixel_values": torch.ones(1, 3, 3)}],
            "left",
            "pixel_values of all prompts must have as many axes",
        ),
        ([{"input_ids": torch.ones(1, 2)}, {}], "left", "every prompt must have input_ids, got 1 of 2"),
    ],
)
def test_inputs_that_do_not_join_are_refused(encoded, side, message):
    with pytest.raises(ValueError, match=message):
        join_inputs(encoded, 0, side)
