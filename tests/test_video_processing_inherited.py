"""Arguments that the video processor inherits: each one works, or is refused by its name."""

from functools import partial

import numpy as np
import pytest
from PIL import Image
from transformers.image_utils import SizeDict
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf import HMBAVideoProcessor, VideoDecodeError, decode_frames
from numbered_videos import numbered_video, read_numbers
from test_decoding_packets import packets_of
from tiny_processors import tiny_processor

AS_THEY_ARE = {"do_expand_to_square": False, "do_resize": False, "do_rescale": False, "do_normalize": False}


@pytest.fixture
def processor():
    return tiny_processor().video_processor


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two files, of 12 and of 5 numbered frames, 10 a second."""
    folder = tmp_path_factory.mktemp("videos")
    for count in (12, 5):
        (folder / f"{count}.mp4").write_bytes(numbered_video(count))
    return str(folder / "12.mp4"), str(folder / "5.mp4")


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def turned():
    picture = Image.fromarray(noise(4, 6, 3))
    picture.getexif()[274] = 6
    return picture


def with_transparency():
    picture = Image.fromarray(noise(4, 6, 3)).quantize(8)
    picture.info["transparency"] = 0
    return picture


PICTURES = {
    "RGB": lambda: Image.fromarray(noise(4, 6, 3)),
    "RGBA": lambda: Image.fromarray(noise(4, 6, 4)),
    "gray": lambda: Image.fromarray(noise(4, 6)),
    "gray with alpha": lambda: Image.merge("LA", [Image.fromarray(layer) for layer in noise(2, 4, 6)]),
    "palette": with_transparency,
    "16 bits": lambda: Image.fromarray(noise(4, 6, dtype=np.uint16)),
    "turned": turned,
    "array": lambda: noise(4, 6, 3),
    "array with alpha": lambda: noise(4, 7, 4)[:, 1:],
    "array, channels first": lambda: noise(3, 8, 6),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_becomes_what_it_is_in_a_clip(processor, kind, tmp_path):
    picture = PICTURES[kind]()
    layout = None if isinstance(picture, Image.Image) else ("first" if "first" in kind else "last")
    options = {"input_data_format": layout and f"channels_{layout}"}
    wanted = processor([[picture]], **AS_THEY_ARE, **options)["pixel_values_videos"][0, 0]
    assert wanted.shape[0] == 3 and wanted.dtype == np.uint8
    assert np.array_equal(processor.process_image(picture, do_convert_rgb=True, **options), wanted)
    converted = processor.convert_to_rgb(picture, **options)
    assert np.array_equal(converted if layout == "first" else np.moveaxis(converted, -1, 0), wanted)
    if kind not in ("palette", "gray with alpha"):
        plain = processor([[picture]], **AS_THEY_ARE, **options, do_convert_rgb=False)["pixel_values_videos"][0, 0]
        assert np.array_equal(processor.process_image(picture, do_convert_rgb=False, **options), plain)
    if isinstance(picture, Image.Image):
        picture.save(tmp_path / "picture.png", exif=picture.getexif())
        read = processor.fetch_images([[str(tmp_path / "picture.png")], picture])
        assert np.array_equal(np.moveaxis(np.asarray(read[0][0]), -1, 0), wanted) and read[1] is picture


def test_pictures_are_padded_below_and_to_the_right(processor):
    pictures = [np.full((3, 2, 3), 7, dtype=np.uint8), np.full((3, 4, 1), 9, dtype=np.uint8)]
    padded, masks = processor.pad(pictures, return_mask=True)
    assert [picture.shape for picture in padded] == [(3, 4, 3)] * 2
    for picture, mask, filled in zip(padded, masks, (7, 9), strict=True):
        assert np.array_equal(picture[0], mask * filled)
    assert masks[0].sum() == 6 and masks[1].sum() == 4 and masks[0][:2, :3].all() and masks[1][:, :1].all()

    (wide,) = processor.pad(pictures[:1], pad_size=SizeDict(height=3, width=5), fill_value=1)
    assert wide.shape == (3, 3, 5) and wide[0].tolist() == [[7, 7, 7, 1, 1], [7, 7, 7, 1, 1], [1] * 5]
    ramp = np.arange(3, dtype=np.uint8)[None, None].repeat(3, 0)
    (mirrored,) = processor.pad([ramp], pad_size=SizeDict(height=1, width=5), padding_mode="reflect")
    assert mirrored[0, 0].tolist() == [0, 1, 2, 1, 0]
    with pytest.raises(ValueError, match="Padding dimensions are negative"):
        processor.pad(pictures, pad_size=SizeDict(height=1, width=9))


def test_a_gap_that_reduces_reaches_pillow(processor):
    picture, size = noise(3, 64, 96), SizeDict(height=5, width=7)
    for gap in (None, 1.0, 3.0):
        options = {"resample": Image.Resampling.BICUBIC, "reducing_gap": gap}
        wanted = Image.fromarray(np.moveaxis(picture, 0, -1)).resize((7, 5), **options)
        assert np.array_equal(processor.resize(picture, size, **options), np.moveaxis(np.asarray(wanted), -1, 0))
    found = [processor.resize(picture, size, Image.Resampling.BICUBIC, reducing_gap=gap) for gap in (None, 1.0)]
    assert not np.array_equal(*found)


def test_videos_are_decoded_without_torchcodec(processor, videos):
    frames, metadata = processor.fetch_videos(videos[0])
    wanted, described = decode_frames(videos[0], num_frames=None)
    assert np.array_equal(frames, wanted) and metadata == described and read_numbers(frames) == list(range(12))
    clips, facts = processor.fetch_videos([*videos])
    assert [read_numbers(clip) for clip in clips] == [list(range(12)), list(range(5))]
    assert [fact.total_num_frames for fact in facts] == [12, 5]
    with pytest.raises(FileNotFoundError, match="no such file"):
        processor.fetch_videos("none.mp4")


def test_frames_are_chosen_from_what_is_known_of_a_video(processor, videos):
    seen = []

    def every_third(metadata):
        seen.append(metadata)
        return np.arange(0, metadata.total_num_frames, 3)

    clips, facts = processor.fetch_videos([*videos], sample_indices_fn=every_third)
    assert [read_numbers(clip) for clip in clips] == [[0, 3, 6, 9], [0, 3]]
    assert facts[0].frames_indices == [0, 3, 6, 9] and facts[1].timestamps == pytest.approx([0.0, 0.3])
    assert [metadata.fps for metadata in seen] == [10, 10] and facts[0].total_num_frames == 12

    sample = partial(processor.sample_frames, num_frames=3, fps=5, timestamp=0.85)
    frames, metadata = processor.fetch_videos(videos[0], sample_indices_fn=sample)
    clip, described = decode_frames(videos[0], 0.85, 3, 5)
    assert np.array_equal(frames, clip) and metadata.frames_indices == described.frames_indices == [4, 6, 8]


def test_a_rate_of_sources_and_whole_frames_are_heeded_where_videos_are_fetched(videos, tmp_path):
    (tmp_path / "raw.h264").write_bytes(numbered_video(6, container="h264", codec="libx264"))
    raw = HMBAVideoProcessor(source_fps=4)
    assert raw.fetch_videos(str(tmp_path / "raw.h264"))[1].timestamps == pytest.approx([i / 4 for i in range(6)])
    data = numbered_video(5, container="avi")
    position, size = packets_of(data)[-1]
    cut = data[: position + 2 * size // 3]
    assert HMBAVideoProcessor().fetch_videos(cut)[1].total_num_frames == 5
    with pytest.raises(VideoDecodeError, match="the frame at 0.400 s is not whole"):
        HMBAVideoProcessor(only_whole=True).fetch_videos(cut)


def test_an_auto_class_refuses_an_option_that_a_video_processor_has_not(tmp_path):
    tiny_processor().save_pretrained(tmp_path)
    for unknown in ("num_frmaes", "padding_side"):
        with pytest.raises(ValueError, match=rf"among \['crop_size', .*got \['{unknown}'\]"):
            AutoVideoProcessor.from_pretrained(tmp_path, num_frames=3, **{unknown: 9})
    found = AutoVideoProcessor.from_pretrained(
        tmp_path, num_frames=9, backend="pil", trust_remote_code=False, revision="main", local_files_only=True
    )
    assert found.num_frames == 9
    _, unused = AutoVideoProcessor.from_pretrained(tmp_path, num_frmaes=9, return_unused_kwargs=True)
    assert unused["num_frmaes"] == 9


def test_what_is_built_from_a_dict_takes_no_option_that_a_video_processor_has_not(processor):
    held = processor.to_dict()
    assert HMBAVideoProcessor.from_dict(held, num_frames=9).num_frames == 9
    with pytest.raises(ValueError, match=r"among \['crop_size', .*got \['num_frmaes'\]"):
        HMBAVideoProcessor.from_dict(held, num_frmaes=9)
    _, unused = HMBAVideoProcessor.from_dict(held, num_frmaes=9, return_unused_kwargs=True)
    assert unused == {"num_frmaes": 9}
