import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.decoding_containers import VideoDecodeError
from hmba_hf.models.modeling_videomamba import VideoMambaForImageClassification, VideoMambaForVideoClassification
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor, cut_view, image_processor_of
from numbered_videos import numbered_video, read_numbers

AS_THEY_ARE = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
SQUARE = {"height": 32, "width": 32}


@pytest.fixture
def processor():
    return VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=SQUARE)


@pytest.fixture(scope="module")
def video():
    """The bytes of 80 numbered frames, 10 a second."""
    return numbered_video(80)


def numbers(processor, videos, **options):
    """The numbers of the frames of each row."""
    rows = processor(videos, **AS_THEY_ARE, **options)["pixel_values_videos"]
    return [read_numbers(np.moveaxis(row, 1, -1)) for row in rows]


def test_a_file_gives_one_frame_of_each_segment_and_normalised_squares(processor, video):
    clip = processor(video, return_tensors="pt")["pixel_values_videos"]
    assert clip.shape == (1, 4, 3, 32, 32) and clip.dtype == torch.float32
    assert numbers(processor, video) == [[10, 30, 50, 70]]
    mean, std = np.array(IMAGENET_DEFAULT_MEAN), np.array(IMAGENET_DEFAULT_STD)
    white = processor(np.full((4, 3, 32, 40), 255, np.uint8))["pixel_values_videos"]
    np.testing.assert_allclose(white[0, 0, :, 0, 0], (1 - mean) / std, rtol=1e-6)


def test_the_short_side_is_resized_bilinearly_and_the_middle_is_taken(processor):
    frame = np.random.default_rng(0).integers(0, 256, (64, 100, 3), np.uint8)
    resized = np.asarray(Image.fromarray(frame).resize((50, 32), Image.Resampling.BILINEAR))
    found = processor([frame], do_rescale=False, do_normalize=False)["pixel_values_videos"][0, 0]
    assert np.array_equal(found, np.moveaxis(resized, -1, 0)[..., 9:41])


def test_every_kind_of_source_gives_the_same_clip(processor, video, tmp_path):
    path = tmp_path / "video.mp4"
    path.write_bytes(video)
    expected = processor(video)["pixel_values_videos"]
    raw, _ = processor.fetch_videos(video)
    pictures = [Image.fromarray(frame) for frame in raw]
    arrays = [raw, torch.from_numpy(raw), np.moveaxis(raw, -1, 1), pictures]
    for source in (path, str(path), bytearray(video), io.BytesIO(video)):
        assert np.array_equal(processor(source)["pixel_values_videos"], expected)
    for source in arrays:
        assert np.array_equal(processor(source, num_frames=4)["pixel_values_videos"], expected)
    assert numbers(processor, [[video], [raw, pictures]], num_frames=4) == [[10, 30, 50, 70]] * 3
    assert processor(np.stack([raw, raw])[:, :6])["pixel_values_videos"].shape[:2] == (2, 6)


def test_frames_are_taken_as_they_are_unless_sampling_is_asked_for(processor):
    frames = np.zeros((7, 3, 32, 32), np.uint8)
    assert processor(frames)["pixel_values_videos"].shape[1] == 7
    for option in ({"num_frames": 4}, {"sampling": "segments"}, {"generator": 0}, {"do_sample_frames": True}):
        assert processor(frames, **option)["pixel_values_videos"].shape[1] == 4


def test_a_file_can_be_taken_whole(processor):
    assert numbers(processor, numbered_video(12), do_sample_frames=False) == [list(range(12))]


def test_short_videos_and_pictures_repeat_frames(processor, tmp_path):
    assert numbers(processor, numbered_video(2)) == [[0, 0, 1, 1]]
    Image.new("RGB", (40, 32), "red").save(tmp_path / "picture.png")
    assert processor(str(tmp_path / "picture.png"))["pixel_values_videos"].shape == (1, 4, 3, 32, 32)


def test_views_over_time_are_spread_within_their_segments(processor, video):
    expected = [[5, 25, 45, 65], [10, 30, 50, 70], [15, 35, 55, 75]]
    assert numbers(processor, video, num_temporal_views=3) == expected
    frames, _ = processor.fetch_videos(video)
    assert numbers(processor, frames, num_temporal_views=3) == expected


def test_dense_frames_follow_each_other_at_a_step(processor, video):
    dense = {"sampling": "dense", "frame_step": 2}
    expected = [[18, 20, 22, 24], [37, 39, 41, 43], [55, 57, 59, 61]]
    assert numbers(processor, video, **dense, num_temporal_views=3) == expected
    assert numbers(processor, video, **dense, start=1.0) == [[10, 12, 14, 16]]
    assert numbers(processor, [video, video], **dense, start=[0, 7.9]) == [[0, 2, 4, 6], [79] * 4]
    frames, metadata = processor.fetch_videos(video)
    assert numbers(processor, frames, **dense, start=1.0, video_metadata=dict(metadata)) == [[10, 12, 14, 16]]


def test_training_draws_one_frame_of_each_segment_from_a_seed(processor, video):
    drawn = [numbers(processor, video, generator=seed)[0] for seed in range(12)]
    assert drawn[0] == numbers(processor, video, generator=np.random.default_rng(0))[0]
    assert all([number // 20 for number in clip] == [0, 1, 2, 3] for clip in drawn)
    assert len({tuple(clip) for clip in drawn}) == 12
    starts = [numbers(processor, video, sampling="dense", generator=seed)[0][0] for seed in range(12)]
    assert len(set(starts)) > 8 and max(starts) <= 67, "a dense clip stays within the video"
    twice = numbers(processor, video, generator=0, num_temporal_views=2)
    assert twice[0] != twice[1], "each view is drawn by itself"


def test_three_views_over_space_lie_along_the_longer_side():
    picture = np.arange(4 * 9).reshape(4, 9)
    views = [cut_view(picture, (4, 4), place, 3) for place in range(3)]
    assert [view[0].tolist() for view in views] == [[0, 1, 2, 3], [2, 3, 4, 5], [5, 6, 7, 8]]
    tall = [cut_view(picture.T, (4, 4), place, 3) for place in range(3)]
    for view, other in zip(tall, views, strict=True):
        assert np.array_equal(view, other.T)
    assert np.array_equal(cut_view(picture, (4, 4)), views[1]), "one view is the middle one"


def test_rows_are_videos_then_views_over_time_then_over_space(processor, video):
    other = numbered_video(40, first=100)
    batch = processor([video, other], num_temporal_views=2, num_spatial_views=3, return_metadata=True)
    rows = batch["pixel_values_videos"]
    assert rows.shape == (12, 4, 3, 32, 32) and len(batch["video_metadata"]) == 12
    row = 0
    for source in (video, other):
        for over_time in processor(source, num_temporal_views=2, do_center_crop=False)["pixel_values_videos"]:
            for place in range(3):
                assert np.array_equal(rows[row], cut_view(over_time, (32, 32), place, 3))
                row += 1
    assert batch["video_metadata"][3].frames_indices == [13, 33, 53, 73]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "sparse"}, r"sampling must be one of \['segments', 'dense'\], got 'sparse'"),
        ({"frame_step": 0, "sampling": "dense"}, "frame_step must be a whole number, one or more, got 0"),
        ({"frame_step": 2}, r"sampling must be 'dense' for \['frame_step'\], got 'segments'"),
        ({"start": 1}, r"sampling must be 'dense' for \['start'\]"),
        ({"start": -1, "sampling": "dense"}, "zero or more, got -1"),
        ({"start": 9, "sampling": "dense"}, "start must be from 0 to 8 s, the end of the video, got 9"),
        ({"start": 1, "sampling": "dense", "generator": 0}, "start must be absent where several views"),
        ({"num_temporal_views": 0}, "num_temporal_views must be a whole number, one or more, got 0"),
        ({"num_spatial_views": 2}, r"num_spatial_views must be one of \[1, 3\], got 2"),
        ({"num_spatial_views": 3, "do_center_crop": False}, "num_spatial_views must be 1 without do_center_crop"),
        ({"generator": 0, "do_sample_frames": False}, "do_sample_frames must be true for options of sampling"),
        ({"num_frames": 0}, "num_frames must be a whole number, one or more, got 0"),
        ({"fps": 2}, "fps must be absent, since frame_step parts the frames of a clip"),
        ({"do_pad": True}, "do_pad must be false, since a scan would see padding"),
        ({"crop_size": {"height": 33, "width": 32}}, "frames must have at least crop_size, 33 x 32, got 32 x "),
        ({"num_views": 2}, "num_views"),
    ],
)
def test_an_option_that_is_wrong_or_would_do_nothing_is_refused(processor, video, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        processor(video, **options)


@pytest.mark.parametrize("options", [{"num_temporal_views": 2}, {"generator": 0}, {"num_view": 2}, {"fps": 2.0}])
def test_options_of_one_call_and_unknown_ones_are_not_stored(options):
    with pytest.raises(ValueError, match="must be a"):
        VideoMambaVideoProcessor(**options)


def test_clips_of_unequal_length_are_refused_and_not_padded(processor):
    clips = [np.zeros((length, 3, 32, 32), np.uint8) for length in (3, 4)]
    with pytest.raises(ValueError, match="clips of a call must have one length and size"):
        processor(clips)


def test_what_is_no_video_is_refused(processor, tmp_path):
    with pytest.raises(FileNotFoundError):
        processor(str(tmp_path / "none.mp4"))
    for nothing in (b"no video", b""):
        with pytest.raises(VideoDecodeError):
            processor(nothing)
    for odd in ([], np.zeros((0, 3, 8, 8)), np.zeros((2, 5, 8, 8)), np.full((1, 3, 8, 8), np.nan), {"video": 1}):
        with pytest.raises(ValueError, match="must"):
            processor(odd)


def test_odd_files_are_read_or_refused_and_nothing_else(processor, shared_data):
    paths = [path for path in sorted(shared_data.rglob("*.*")) if path.suffix not in (".jpg", ".jsonl", ".csv")]
    paths = [path for path in paths if path.stat().st_size < 200_000]
    read = 0
    for path in paths:
        try:
            clip = processor(path, num_frames=2)["pixel_values_videos"]
        except (VideoDecodeError, ValueError):
            continue
        read += 1
        assert clip.shape == (1, 2, 3, 32, 32) and np.isfinite(clip).all()
    assert 20 < read < len(paths)


def test_it_is_saved_with_its_code_and_loaded_by_the_auto_class(processor, video, tmp_path):
    processor.num_temporal_views = 2  # of a run that takes several views of each video
    processor.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert stored["auto_map"] == {"AutoVideoProcessor": "video_processing_videomamba.VideoMambaVideoProcessor"}
    assert not {"generator", "start", "num_temporal_views", "num_spatial_views", "limits"} & stored.keys()
    code = {path.name for path in tmp_path.glob("*.py")}
    assert "video_processing_videomamba.py" in code and "reading_videos.py" in code
    assert not {name for name in code if "hmba.py" in name}, "of another family"
    loaded = AutoVideoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is VideoMambaVideoProcessor and loaded.to_dict() == processor.to_dict()
    with pytest.raises(ValueError, match=r"got \['num_frmaes'\]"):
        AutoVideoProcessor.from_pretrained(tmp_path, num_frmaes=3)


def tiny_config(num_frames):
    return VideoMambaConfig(hidden_size=16, num_hidden_layers=2, image_size=32, num_frames=num_frames, num_labels=3)


def test_the_stock_pipeline_classifies_a_file(processor, video, tmp_path):
    model = VideoMambaForVideoClassification(tiny_config(4)).eval()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "checkpoint")
    path = tmp_path / "video.mp4"
    path.write_bytes(video)
    with torch.no_grad():
        expected = model(**processor(path, return_tensors="pt")).logits.softmax(-1)[0]
    found = pipeline("video-classification", model=str(tmp_path / "checkpoint"))(str(path), top_k=3)
    scores = {answer["label"]: answer["score"] for answer in found}
    np.testing.assert_allclose([scores[f"LABEL_{label}"] for label in range(3)], expected, rtol=1e-5)


def test_the_stock_pipeline_classifies_a_picture(tmp_path):
    model = VideoMambaForImageClassification(tiny_config(1)).eval()
    for part in (model, image_processor_of(32)):
        part.save_pretrained(tmp_path / "checkpoint")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    picture.save(tmp_path / "picture.png")
    resized = np.asarray(picture.resize((50, 36), Image.Resampling.BICUBIC))[2:34, 9:41] / 255
    pixels = (resized - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    with torch.no_grad():
        expected = model(torch.from_numpy(pixels).permute(2, 0, 1)[None].float()).logits.softmax(-1)[0]
    found = pipeline("image-classification", model=str(tmp_path / "checkpoint"))(str(tmp_path / "picture.png"))
    scores = {answer["label"]: answer["score"] for answer in found}
    np.testing.assert_allclose([scores[f"LABEL_{label}"] for label in range(3)], expected, rtol=1e-4)
    assert AutoImageProcessor.from_pretrained(tmp_path / "checkpoint").size["shortest_edge"] == 36
    assert image_processor_of().size["shortest_edge"] == 256
