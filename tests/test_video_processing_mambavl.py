import json

import numpy as np
import pytest
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf.models.reading_clips import ClipVideoProcessor
from hmba_hf.models.video_processing_mambavl import BACKBONES, MambaVLVideoProcessor
from numbered_videos import numbered_video, read_numbers
from tiny_questions import tiny_clip_reader

AS_THEY_ARE = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
WHITE = np.full((2, 3, 16, 16), 255, np.uint8)


def white_of(processor):
    """The value of white in each colour."""
    return processor(WHITE)["pixel_values_videos"][0, 0, :, 0, 0]


def test_a_file_gives_sixteen_frames_of_its_segments():
    processor = MambaVLVideoProcessor()
    assert isinstance(processor, ClipVideoProcessor)
    rows = processor(numbered_video(32), **AS_THEY_ARE)["pixel_values_videos"]
    assert read_numbers(np.moveaxis(rows[0], 1, -1)) == list(range(1, 32, 2))


def test_colours_are_those_of_the_video_model():
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    for backbone in BACKBONES:
        made = MambaVLVideoProcessor.of_backbone(backbone, **sizes)
        held = BACKBONES[backbone]
        wanted = (1 - np.array(held["image_mean"])) / np.array(held["image_std"])
        np.testing.assert_allclose(white_of(made), wanted, rtol=1e-6)
    np.testing.assert_allclose(
        white_of(tiny_clip_reader()), white_of(MambaVLVideoProcessor.of_backbone("clip", **sizes))
    )
    # Of values from 0 to 255, as the released code has them.
    avion = (255 - np.array([108.3272985, 116.7460125, 104.09373615])) / np.array(
        [68.5005327, 66.6321579, 70.32316305]
    )
    np.testing.assert_allclose(white_of(MambaVLVideoProcessor.of_backbone("avion", **sizes)), avion, rtol=1e-6)


def test_options_replace_those_of_a_video_model_and_another_is_refused():
    made = MambaVLVideoProcessor.of_backbone("motionformer", num_frames=8)
    assert (made.sampling, made.frame_step, made.num_frames) == ("dense", 4, 8)
    with pytest.raises(ValueError, match=r"backbone must be one of \['avion', .*\], got 'orvit'"):
        MambaVLVideoProcessor.of_backbone("orvit")


def test_it_is_saved_with_its_code_and_loaded_by_the_auto_class(tmp_path):
    processor = MambaVLVideoProcessor.of_backbone("avion", num_frames=4)
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert stored["auto_map"] == {"AutoVideoProcessor": "video_processing_mambavl.MambaVLVideoProcessor"}
    code = {path.name for path in tmp_path.glob("*.py")}
    assert {"video_processing_mambavl.py", "reading_clips.py", "reading_videos.py"} <= code
    assert not [name for name in code if name.endswith(("videomamba.py", "hmba.py"))], "of another family"
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MambaVLVideoProcessor and loaded.to_dict() == processor.to_dict()
