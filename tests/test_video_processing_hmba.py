import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.utils import VIDEO_PROCESSOR_NAME
from transformers.video_utils import VideoMetadata

from hmba_hf import SourceLimits, VideoDecodeError
from hmba_hf.models.decoding_video import decode_frames
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor, expand_to_square, flatten_videos
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor
from numbered_videos import numbered_video
from tiny_models import lively_model
from tiny_processors import tiny_processor

RATE = 10


@pytest.fixture(scope="module")
def video():
    """Five seconds of numbered frames, ten a second."""
    return numbered_video(50, rate=RATE)


@pytest.fixture
def processor():
    return HMBAVideoProcessor(size={"height": 28, "width": 28})


def random_frames(count=5, height=20, width=30, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def pixels(processor, videos, **kwargs):
    return processor(videos, return_tensors="pt", **kwargs)["pixel_values_videos"]


# The picture


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (21, 30), (30, 21), (24, 24)])
def test_expand_to_square_centres_on_white_and_leaves_the_odd_pixel_below_or_right(height, width):
    frame = random_frames(1, height, width)[0]
    square = np.asarray(expand_to_square(Image.fromarray(frame)))
    side, top, left = max(height, width), max(width - height, 0) // 2, max(height - width, 0) // 2
    assert square.shape == (side, side, 3)
    assert np.array_equal(square[top : top + height, left : left + width], frame)
    assert square.sum() == frame.sum() + 255 * 3 * (side * side - height * width)
    assert np.array_equal(expand_to_square(frame.transpose(2, 0, 1)), square.transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(20, 30), (300, 201), (224, 224)])
def test_frames_look_as_clip_sees_them_on_a_white_square(size):
    frames = random_frames(2, *size)
    squares = [expand_to_square(Image.fromarray(frame)) for frame in frames]
    clip = CLIPImageProcessorPil()(squares, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels(HMBAVideoProcessor(), frames)[0], clip)


# Frames instead of files


def test_frames_may_come_as_images_or_arrays_channels_first_or_last(processor):
    frames = random_frames()
    wanted = pixels(processor, frames)
    assert wanted.shape == (1, 5, 3, 28, 28) and wanted.dtype == torch.float32
    first = frames.transpose(0, 3, 1, 2)
    for clip in (
        [Image.fromarray(frame) for frame in frames],
        list(frames),
        tuple(first),
        first,
        torch.from_numpy(frames),
        torch.from_numpy(first.copy()),
        [torch.from_numpy(frame) for frame in frames],
        frames.astype(np.int64),
        frames.astype(np.float32),
        torch.from_numpy(frames).to(torch.bfloat16),
    ):
        assert torch.equal(pixels(processor, clip), wanted)


def test_values_between_0_and_1_need_do_rescale_off(processor):
    frames = random_frames()
    with pytest.raises(ValueError, match="do_rescale=False"):
        processor(frames / 255)
    scaled = pixels(processor, frames / 255, do_rescale=False)
    assert torch.allclose(scaled, pixels(processor, frames), atol=0.02)


def test_grey_and_transparent_frames_become_rgb(processor):
    grey = random_frames()[..., 0]
    wanted = pixels(processor, np.repeat(grey[..., None], 3, axis=-1))
    assert torch.equal(pixels(processor, [Image.fromarray(frame) for frame in grey]), wanted)
    assert torch.equal(pixels(processor, list(grey)), wanted)
    assert torch.equal(pixels(processor, grey[..., None]), wanted)
    clear = np.concatenate([random_frames(), np.zeros((5, 20, 30, 1), np.uint8)], axis=-1)
    assert torch.equal(pixels(processor, clear), pixels(processor, np.full((5, 20, 30, 3), 255, np.uint8)))


def test_one_image_is_a_clip_of_one_frame(processor):
    frame = random_frames(1)[0]
    for image in (Image.fromarray(frame), frame, torch.from_numpy(frame), [Image.fromarray(frame)]):
        assert torch.equal(pixels(processor, image), pixels(processor, frame[None]))


def test_an_image_beside_a_sampled_video_stays_one_frame(processor, video):
    image = Image.fromarray(random_frames(1)[0])
    for options in ({"timestamp": 3.0}, {"num_frames": 4, "fps": 2.0, "do_sample_frames": True}):
        features = processor([video, image], **options)
        assert features["frame_mask"].sum(axis=1).tolist() == [options.get("num_frames", 5), 1]


def test_any_nesting_of_clips_is_a_batch(processor, video, tmp_path):
    clip, image = random_frames(), Image.fromarray(random_frames(1)[0])
    assert len(flatten_videos(np.stack([clip, clip]))) == 2
    assert len(flatten_videos([[clip, clip], [clip]])) == 3
    assert len(flatten_videos([[[image, image]], [image]])) == 2
    assert len(flatten_videos([video, clip, [image, image], "a.mp4", tmp_path])) == 5
    assert flatten_videos([["a.mp4", "b.mp4"], ["c.mp4"]]) == ["a.mp4", "b.mp4", "c.mp4"]
    batch = pixels(processor, [video, [Image.fromarray(frame) for frame in clip], torch.from_numpy(clip)])
    assert batch.shape == (3, 5, 3, 28, 28)
    assert torch.equal(batch[0], pixels(processor, video)[0]) and torch.equal(batch[1], batch[2])


def test_image_files_nested_as_chat_templates_nest_them_are_the_frames_of_one_clip(processor, tmp_path):
    frames = random_frames(2)
    paths = [str(tmp_path / f"{index}.png") for index in range(2)]
    for frame, path in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(path)
    assert torch.equal(pixels(processor, [[paths]]), pixels(processor, frames))


def test_clips_of_unequal_length_are_padded_on_the_old_side(processor):
    short, long = random_frames(2), random_frames(4, seed=1)
    features = processor([short, long], return_tensors="pt")
    assert features["frame_mask"].tolist() == [[False, False, True, True], [True] * 4]
    assert torch.equal(features["pixel_values_videos"][0, 2:], pixels(processor, short)[0])
    assert torch.equal(features["pixel_values_videos"][1], pixels(processor, long)[0])
    assert not features["pixel_values_videos"][0, :2].any()


def test_clips_of_equal_length_need_no_mask(processor, video):
    assert set(processor([video, random_frames(5)])) == {"pixel_values_videos"}


@pytest.mark.parametrize("facts", [{"fps": RATE}, {"timestamps": [k / RATE for k in range(50)]}])
@pytest.mark.parametrize("timestamp", [None, 0.7, 3.33])
def test_frames_with_known_times_are_sampled_like_a_file(processor, video, facts, timestamp):
    every = decode_frames(video, num_frames=None)[0]
    options = {"timestamp": timestamp, "num_frames": 3, "fps": 4.0, "return_metadata": True, "return_tensors": "pt"}
    wanted, given = (
        processor(video, **options),
        processor(every, video_metadata=facts, do_sample_frames=True, **options),
    )
    assert torch.equal(given["pixel_values_videos"], wanted["pixel_values_videos"])
    assert given["video_metadata"][0].timestamps == wanted["video_metadata"][0].timestamps
    assert given["video_metadata"][0].frames_indices == wanted["video_metadata"][0].frames_indices


def test_frames_are_taken_as_they_are_unless_sampling_is_asked_for(processor):
    frames = random_frames(8)
    assert pixels(processor, frames).shape[1] == 8
    assert pixels(processor, frames, num_frames=3, do_sample_frames=False).shape[1] == 8
    assert torch.equal(pixels(processor, frames, num_frames=3, do_sample_frames=True), pixels(processor, frames[-3:]))
    facts = VideoMetadata(total_num_frames=8, fps=4.0)
    assert torch.equal(
        pixels(processor, frames, video_metadata=[facts], timestamp=1.0, num_frames=2),
        pixels(processor, frames[[2, 4]]),
    )


def test_metadata_of_sampled_frames_survives_a_second_call(processor, video):
    options = {"return_metadata": True, "return_tensors": "pt"}
    first = processor(video, **options)["video_metadata"]
    frames = decode_frames(video)[0]
    again = processor(frames, video_metadata=first, timestamp=3.95, num_frames=2, fps=1.0, **options)
    assert again["video_metadata"][0].timestamps == [2.9, 3.9]
    assert again["video_metadata"][0].frames_indices == [29, 39]


@pytest.mark.parametrize(
    ("facts", "options", "message"),
    [
        (None, {"timestamp": 1.0}, "needs video_metadata"),
        (None, {"fps": 2.0, "do_sample_frames": True}, "needs video_metadata"),
        (None, {"num_frames": 9, "do_sample_frames": True}, "num_frames=9 out of 8"),
        ({"fps": 4.0}, {"timestamp": 2.5}, "lies outside the clip"),
        ({"timestamps": [5.0 + k for k in range(8)]}, {"timestamp": 1.0}, "lies outside the clip"),
        ({"fps": 4.0, "total_num_frames": 300}, {"timestamp": 1.0}, "speaks of 300 frames, but 8 came"),
        ({"timestamps": [0.0, 1.0]}, {}, "frame_times for 8 frames, got 2"),
        ({"frames_indices": [0, 1]}, {}, "frames_indices for 8 frames, got 2"),
        ({"timestamps": [float("nan")] * 8}, {}, "got nan"),
        ({"timestamps": [None] * 8}, {}, "frame_times as numbers, got None"),
        ({"timestamps": 5}, {}, "frame_times as a list, got 5"),
        ({"frames_indices": [float("nan")] * 8, "fps": 2.0}, {}, "frames_indices as numbers, got nan"),
        ({"frames_indices": ["0"] * 8, "fps": 2.0}, {}, "frames_indices as numbers, got '0'"),
        ({"duration": "long"}, {}, "duration of video_metadata must be a number, zero or more, got 'long'"),
        ({"total_num_frames": float("nan")}, {}, "total_num_frames of video_metadata must be a number"),
        ({"fps": 10**400}, {}, "fps must be"),
        ("drive.mp4", {}, "video_metadata must be facts by name, got 'drive.mp4'"),
        ({"fps": 0.0}, {}, "fps must be"),
        ({"frame_rate": 3}, {}, "unknown keys"),
        ([{"fps": 4.0}] * 2, {}, "expected 1 entries of video_metadata"),
        (None, {"timestamp": [1.0, 2.0]}, "expected 1 entries of timestamp"),
    ],
)
def test_frames_whose_times_do_not_fit_are_refused(processor, facts, options, message):
    with pytest.raises(ValueError, match=message):
        processor(random_frames(8), video_metadata=facts, **options)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ([], "none of them empty"),
        ([[]], "none of them empty"),
        (None, "got NoneType"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame"),
        (np.zeros((2, 0, 8, 3), np.uint8), "at least one frame"),
        (np.zeros(8, np.uint8), "shape"),
        (np.zeros((1, 1, 2, 8, 8, 3), np.uint8), "shape"),
        (np.zeros((2, 8, 8, 5), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((5, 8, 8), np.uint8), "1, 3 or 4 channels"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)], "same size"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], "same size"),
        (np.full((2, 8, 8, 3), np.nan), "finite"),
        (torch.full((2, 3, 8, 8), float("inf")), "finite"),
        (np.full((2, 8, 8, 3), 256.0), "between 0 and 255"),
        (np.full((2, 8, 8, 3), -1), "between 0 and 255"),
        (np.full((2, 8, 8, 3), "a"), "numbers"),
    ],
)
def test_frames_that_are_no_pictures_are_refused(processor, clip, message):
    with pytest.raises(ValueError, match=message):
        processor(clip)


# The processor


def test_each_video_of_a_batch_may_have_its_own_timestamp(processor, video):
    batch = pixels(processor, [video, video, video], timestamp=[1.0, None, 3])
    for index, timestamp in enumerate((1.0, None, 3)):
        assert torch.equal(batch[index], pixels(processor, video, timestamp=timestamp)[0])
    assert torch.equal(pixels(processor, [video, video], timestamp=1.0)[1], batch[0])
    assert torch.equal(pixels(processor, [video, video], timestamp=np.array([1.0, 3.0])), batch[[0, 2]])
    assert torch.equal(pixels(processor, video, timestamp=np.float32(1.0), num_frames=np.int64(5)), batch[:1])


def test_a_call_may_override_the_sampling_of_the_processor(video):
    processor = HMBAVideoProcessor(num_frames=3, fps=5.0, size={"height": 14, "width": 14})
    options = {"return_metadata": True}
    assert processor(video, **options)["video_metadata"][0].frames_indices == [45, 47, 49]
    assert processor(video, fps=1.0, **options)["video_metadata"][0].frames_indices == [29, 39, 49]
    assert processor(video, num_frames=1, **options)["video_metadata"][0].frames_indices == [49]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 0}, "num_frames must be"),
        ({"num_frames": -2}, "num_frames must be"),
        ({"num_frames": 2.5}, "num_frames must be"),
        ({"num_frames": "x"}, "num_frames must be"),
        ({"fps": 0}, "fps must be"),
        ({"fps": float("inf")}, "fps must be"),
    ],
)
def test_impossible_sampling_is_refused_when_a_processor_is_made_set_or_called(processor, video, options, message):
    with pytest.raises(ValueError, match=message):
        HMBAVideoProcessor(**options)
    for videos in (video, random_frames(8)):
        with pytest.raises(ValueError, match=message):
            processor(videos, **options)
    for name, value in options.items():
        setattr(processor, name, value)
    with pytest.raises(ValueError, match=message):
        processor(video)
    with pytest.raises(ValueError, match=message):
        processor(random_frames(8), video_metadata={"fps": 4.0}, do_sample_frames=True)


@pytest.mark.parametrize(
    ("name", "wanted"), [("num_frames", "a whole number, one or more"), ("fps", "a number greater than zero")]
)
def test_a_processor_without_a_number_or_a_rate_of_frames_is_refused_when_it_is_made(name, wanted):
    with pytest.raises(ValueError, match=f"{name} must be {wanted}, got None"):
        HMBAVideoProcessor(**{name: None})


@pytest.mark.parametrize("timestamp", [None, 1.0])
def test_a_clip_without_a_rate_of_its_frames_is_refused(video, timestamp):
    with pytest.raises(ValueError, match="fps must be a number greater than zero, got None"):
        decode_frames(video, timestamp, fps=None)
    every, _ = decode_frames(video, timestamp, num_frames=None, fps=None)
    assert len(every)


@pytest.mark.parametrize("num_frames", [3.0, np.int64(3), np.float32(3)], ids=repr)
def test_a_processor_may_be_made_with_any_whole_number_of_frames(video, num_frames):
    made = HMBAVideoProcessor(num_frames=num_frames)
    plain = HMBAVideoProcessor(num_frames=3)
    assert made.to_json_string() == plain.to_json_string()
    for videos in (video, random_frames(8)):
        options = {"do_sample_frames": True}
        assert torch.equal(pixels(made, videos, **options), pixels(plain, videos, **options))


@pytest.mark.parametrize("timestamp", [-0.1, float("nan"), "now"])
def test_a_timestamp_that_is_no_time_is_refused(processor, video, timestamp):
    with pytest.raises(ValueError, match="timestamp must be"):
        processor(video, timestamp=timestamp)


def test_a_file_may_be_taken_whole(processor, video):
    assert pixels(processor, video, do_sample_frames=False).shape[1] == 50
    assert pixels(processor, video, do_sample_frames=False, timestamp=1.0).shape[1] == 11


def test_frames_are_taken_up_to_a_timestamp_as_those_of_a_file_are(processor, video):
    frames, metadata = decode_frames(video, num_frames=None)
    options = {"do_sample_frames": False, "timestamp": 1.0}
    of_frames = pixels(processor, frames, video_metadata={"timestamps": metadata.timestamps}, **options)
    assert torch.equal(of_frames, pixels(processor, video, **options)) and of_frames.shape[1] == 11
    with pytest.raises(ValueError, match="lies outside the clip"):
        pixels(processor, frames, video_metadata={"fps": 10.0}, do_sample_frames=False, timestamp=6.0)


@pytest.mark.parametrize("facts", [{"fps": 4.0, "timestamps": [9.0]}, {}, "nonsense"])
def test_metadata_beside_a_file_is_refused(processor, video, facts):
    with pytest.raises(ValueError, match="video_metadata must be absent beside a file"):
        processor([video], video_metadata=[facts])
    with pytest.raises(ValueError, match="video_metadata must be absent beside a file"):
        VideoMambaVideoProcessor(num_frames=2)([video], video_metadata=[facts])


def test_metadata_tells_the_size_of_the_original_frame_and_the_times_of_the_clip(processor, video):
    (metadata,) = processor(video, timestamp=2.0, return_metadata=True)["video_metadata"]
    assert (metadata.height, metadata.width) == (48, 64)
    assert metadata.timestamps == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert metadata.frames_indices == [0, 5, 10, 15, 20]
    assert (metadata.fps, metadata.duration, metadata.total_num_frames) == (10.0, 5.0, 50)
    (metadata,) = processor(random_frames(3, 20, 30), return_metadata=True)["video_metadata"]
    assert (metadata.height, metadata.width, metadata.total_num_frames) == (20, 30, 3)


def test_size_and_square_padding_can_be_chosen():
    frames = random_frames(2, 20, 40)
    assert pixels(HMBAVideoProcessor(size=336), frames).shape == (1, 2, 3, 336, 336)
    assert pixels(HMBAVideoProcessor(size=28, do_expand_to_square=False), frames).shape == (1, 2, 3, 28, 56)
    assert pixels(HMBAVideoProcessor(do_resize=False), frames).shape == (1, 2, 3, 40, 40)


def test_saving_and_loading_gives_the_same_processor(tmp_path):
    processor = HMBAVideoProcessor(
        num_frames=8, fps=4.0, size={"height": 336, "width": 336}, do_expand_to_square=False
    )
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / VIDEO_PROCESSOR_NAME).read_text())
    assert saved["video_processor_type"] == "HMBAVideoProcessor"
    assert "timestamp" not in saved and "video_metadata" not in saved
    for loaded in (HMBAVideoProcessor.from_pretrained(tmp_path), AutoVideoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, HMBAVideoProcessor)
        assert loaded.to_dict() == processor.to_dict()


def test_an_option_that_does_not_exist_is_refused(processor):
    with pytest.raises(Exception, match="frame_rate"):
        processor(random_frames(), frame_rate=3)


def test_frames_whose_times_are_rounded_are_sampled_at_their_rate():
    frames = np.arange(60, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    times = [round(index / 30, 3) for index in range(60)]
    processor = HMBAVideoProcessor(num_frames=5)
    for last in range(5, 60):
        metadata = processor(
            frames, video_metadata={"timestamps": times}, timestamp=times[last], fps=30, return_metadata=True
        )["video_metadata"][0]
        assert metadata.timestamps == times[last - 4 : last + 1]


def test_limits_of_a_file_are_an_option_of_a_call_that_is_not_kept(processor, video):
    assert len(pixels(processor, video, limits=SourceLimits(max_pixels=64 * 48))) == 1
    with pytest.raises(VideoDecodeError, match="at most max_pixels=100, got 64 x 48"):
        processor(video, limits=SourceLimits(max_pixels=100))
    pipe = pipeline("video-text-to-text", model=lively_model(), processor=tiny_processor(), device="cpu")
    with pytest.raises(VideoDecodeError, match="at most max_pixels=100, got 64 x 48"):
        pipe(videos=video, text="?", limits=SourceLimits(max_pixels=100), max_new_tokens=1)
    assert "limits" not in processor.to_dict()
    with pytest.raises(ValueError, match="options must be among"):
        HMBAVideoProcessor(limits=SourceLimits())
