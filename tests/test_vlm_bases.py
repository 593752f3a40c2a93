"""Each tiny base answers about a picture by itself, and takes its encoded pictures in the place of pixels."""

import inspect

import pytest
import torch

from tiny_vlm_bases import BASES, tiny_vlm


@pytest.fixture(scope="module", params=sorted(BASES))
def base(request):
    return tiny_vlm(request.param)


def encode_pictures(model, inputs):
    """Run the base's vision tower on those inputs that it takes."""
    encode = model.base_model.get_image_features
    taken = inspect.signature(encode).parameters.keys() & inputs.keys()
    return encode(**{name: inputs[name] for name in taken})


@torch.no_grad()
def test_a_base_answers_about_the_picture_that_it_is_shown(base):
    inputs = base.inputs()
    answer = base.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    other = base.inputs(shade=1)
    assert torch.equal(inputs["input_ids"], other["input_ids"])
    assert not torch.equal(base.model(**inputs).logits, base.model(**other).logits)


@torch.no_grad()
def test_encoded_pictures_stand_for_pixels_to_the_bit(base):
    inputs = base.inputs()
    expected = base.model(**inputs).logits
    pictures = encode_pictures(base.model, inputs)
    del inputs["pixel_values"]
    assert torch.equal(base.model(**inputs, mm_encoder_outputs={"image": pictures}).logits, expected)
