"""Videos as vLLM hands them over, brought to clips, with empty classes in place of vLLM's."""

import importlib
import sys
from io import BytesIO
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from hmba_hf.models.decoding_clips import stack_frames

READING = "hmba_hf.integrations.vllm.reading"
OF_VLLM = {
    "vllm": (),
    "vllm.multimodal": (),
    "vllm.multimodal.media": ("MediaWithBytes",),
    "vllm.multimodal.parse": ("MultiModalDataItems", "MultiModalDataParser", "ProcessorBatchItems"),
    "vllm.multimodal.video": ("VideoLoader",),
}


@pytest.fixture
def reading(monkeypatch):
    for name, classes in OF_VLLM.items():
        module = ModuleType(name)
        for one in classes:
            setattr(module, one, type(one, (), {}))
        monkeypatch.setitem(sys.modules, name, module)
    yield importlib.import_module(READING)
    sys.modules.pop(READING, None)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 10)).save(data, "JPEG", exif=exif)
    return Image.open(data)


PICTURES = {
    "turned": turned,
    "transparent": lambda: Image.new("RGBA", (6, 4), (0, 0, 0, 0)),
    "16 bits": lambda: Image.fromarray(np.full((4, 6), 100 * 257, np.uint16)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_frames_that_are_pictures_become_the_pixels_of_the_processor(reading, name):
    source = reading._as_clip([PICTURES[name](), PICTURES[name]()]).source
    assert np.array_equal(source, stack_frames([PICTURES[name](), PICTURES[name]()]))


def test_pictures_are_turned_upright_and_shown_on_white(reading):
    assert reading._as_clip([turned()]).source.shape == (1, 3, 6, 4)
    assert (reading._as_clip([PICTURES["transparent"]()]).source == 255).all()


def test_frames_of_other_sizes_are_refused_in_one_sentence(reading):
    with pytest.raises(ValueError, match="all frames of a clip must have the same size, got"):
        reading._as_clip([Image.new("RGB", (6, 4)), Image.new("RGB", (4, 4))])


def test_tensors_that_numpy_lacks_are_read(reading):
    source = reading._as_clip(torch.full((2, 3, 4, 6), 100, dtype=torch.bfloat16)).source
    assert source.shape == (2, 3, 4, 6) and (source == 100).all()


def test_a_pair_is_of_frames_and_their_metadata_alone(reading):
    frames = np.zeros((2, 4, 6, 3), np.uint8)
    assert reading._is_one_video((frames, {"fps": 2})) and reading._is_one_video(([frames[0]], None))
    assert not reading._is_one_video(("a.mp4", {"fps": 2})) and not reading._is_one_video(("a.mp4", None))
