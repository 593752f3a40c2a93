"""Boxes are written and read in the dialect of a base, and in the pixels that it sees."""

import pytest

from hmba_hf import HMBAVLMProcessor
from test_processing_hmba_vlm import clip, save_base, vlm_processor
from tiny_vlm_bases import is_there


def test_boxes_are_written_and_read_in_the_dialect_of_the_base(tmp_path):
    boxes = [(10.0, 6.0, 30.0, 18.0)]
    objects = [{"label": "a car", "box": {"xmin": 10.0, "ymin": 6.0, "xmax": 30.0, "ymax": 18.0}}]
    for name in filter(is_there, ("qwen3_vl", "qwen2_5_vl", "gemma3", "gemma4", "paligemma", "internvl")):
        processor = HMBAVLMProcessor.from_base_pretrained(save_base(name, tmp_path / name))
        text = processor.format_boxes(boxes, (24, 40), labels=["a car"])
        [found] = processor.post_process_boxes(text, (24, 40))
        assert found["label"] == "a car"
        assert all(abs(found["box"][side] - objects[0]["box"][side]) < 0.7 for side in found["box"])
        assert len(processor.parse_boxes(text, (24, 40))) == 1
        assert "".join(processor.strip_boxes(f"b {text}").split()) in ("b", "bacar")


def test_the_boxes_of_an_unknown_base_must_be_named():
    processor = vlm_processor("smolvlm")
    calls = (
        lambda: processor.format_boxes([(0, 0, 1, 1)], (24, 40)),
        lambda: processor.parse_boxes("[0,0,1,1]"),
        lambda: processor.post_process_boxes("[0,0,1,1]", (24, 40)),
        lambda: processor.strip_boxes("[0,0,1,1]"),
    )
    for call in calls:
        with pytest.raises(ValueError, match="boxes_dialect must be named for a base with a SmolVLMProcessor"):
            call()
    with pytest.raises(ValueError, match="boxes_dialect must be one of"):
        vlm_processor("smolvlm", boxes_dialect="pixel")
    named = vlm_processor("smolvlm", boxes_dialect="unit_square")
    assert named.format_boxes([(0, 0, 40, 24)], (24, 40)) == "[0.000,0.200,1.000,0.800]"


def test_the_dialect_is_not_guessed_from_the_class_of_a_processor(tmp_path):
    folder = save_base("internvl", tmp_path)
    assert HMBAVLMProcessor.from_base_pretrained(folder).boxes_dialect == "ref_box"
    (tmp_path / "config.json").write_text('{"model_type": "got_ocr2"}')  # it has no row in the table
    processor = HMBAVLMProcessor.from_base_pretrained(folder)
    assert processor.boxes_dialect is None
    processor.save_pretrained(tmp_path / "saved")
    assert HMBAVLMProcessor.from_pretrained(tmp_path / "saved").boxes_dialect is None


@pytest.mark.parametrize(
    "options", [{"min_pixels": 64}, {"do_resize": False}, {"images_kwargs": {"size": {"shortest_edge": 64}}}]
)
def test_pictures_have_one_size_where_boxes_are_in_its_pixels(options):
    processor = vlm_processor("qwen2_5_vl", boxes_dialect="pixels")
    with pytest.raises(ValueError, match="sizes of pictures must be set in the image processor, .* in a call"):
        processor(text=processor.video_token, videos=[clip()], **options)


def test_the_size_to_which_a_base_resizes_a_frame_is_known():
    assert vlm_processor("qwen2_5_vl").frame_size_in_base((24, 40)) == (32, 32)
    assert vlm_processor("qwen2_5_vl").frame_size_in_base((480, 960)) == (32, 80)
    assert vlm_processor("gemma3").frame_size_in_base((24, 40)) == (32, 32)
    assert vlm_processor("mistral3").frame_size_in_base((480, 960)) == (16, 32)
    assert vlm_processor("smolvlm").frame_size_in_base((60, 100)) == (32, 32)  # stretched: it pads frames of a batch
    assert vlm_processor("llava").frame_size_in_base((60, 60)) == (32, 32)  # nothing to crop


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("llava", {}, r"must see all of a frame of \(60, 100\), got LlavaImageProcessorPil, which crops it"),
        (
            "llava",
            {"do_center_crop": False, "do_pad": True},
            r"must fill its picture with a frame of \(60, 100\), got LlavaImageProcessorPil, which pads it",
        ),
        ("lfm2_vl", {}, "must tell to which size it resizes a frame, .* got patches alone of Lfm2VlPictures"),
        (
            "llava_onevision",
            {},
            r"must resize a frame of \(60, 100\) as one picture, got pieces of shape \(3, 3, 32, 32\)",
        ),
    ],
)
def test_boxes_in_pixels_are_refused_where_the_base_does_not_see_a_resized_frame(name, settings, message):
    processor = vlm_processor(name, boxes_dialect="pixels")
    for key, value in settings.items():
        setattr(processor.image_processor, key, value)
    calls = (
        lambda: processor.frame_size_in_base((60, 100)),
        lambda: processor.format_boxes([(0, 0, 40, 24)], (60, 100)),
        lambda: processor.post_process_boxes('[{"bbox_2d": [1, 2, 3, 4]}]', (60, 100)),
    )
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call()
