"""Inputs that no VideoMamba can make sense of are refused by what was wanted and what came, at every class."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, VideoClassificationPipeline

from hmba_hf import VideoMambaForVideoTextRetrieval, VideoMambaRetrievalConfig
from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from hmba_hf.models.video_processing_videomamba import VideoMambaVideoProcessor

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "state_size": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 4,
    "alignment_size": 6,
    "num_labels": 3,
}
CLIPS = torch.rand(2, 4, 3, 16, 16)
IDS = torch.tensor([[1, 5, 7], [1, 6, 0]])
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 8,
}


def build(model_class):
    if model_class is VideoMambaForImageClassification:
        return model_class(VideoMambaConfig(**{**SIZES, "num_frames": 1})).eval()
    config = VideoMambaConfig(**SIZES)
    if model_class is VideoMambaForVideoTextRetrieval:
        config = VideoMambaRetrievalConfig(vision_config=config, text_config=BertConfig(**TEXT), num_fusion_layers=1)
    return model_class(config).eval()


@pytest.fixture(scope="module")
def retrieval():
    return build(VideoMambaForVideoTextRetrieval)


@pytest.mark.parametrize(
    "model_class",
    [
        VideoMambaModel,
        VideoMambaForVideoClassification,
        VideoMambaForImageClassification,
        VideoMambaForPreTraining,
        VideoMambaForVideoTextRetrieval,
    ],
)
def test_pixels_that_no_processor_makes_are_refused(model_class):
    model = build(model_class)
    inputs = {"pixel_values_videos": CLIPS}
    if model_class is VideoMambaForImageClassification:
        inputs = {"pixel_values": CLIPS[:, 0]}
    if model_class is VideoMambaForVideoTextRetrieval:
        inputs["input_ids"] = IDS
    ((name, pixels), *_) = inputs.items()
    for bad, message in (
        ((255 * pixels).byte(), "must be floats, as a processor makes them, got torch.uint8"),
        (pixels > 0.5, "must be floats, as a processor makes them, got torch.bool"),
        (pixels * torch.nan, "must be finite, got NaN or infinity"),
        (pixels[..., :12], r"must have width in multiples of patch_size=8, got 12"),
        (pixels[..., :8], "frames must have 2 x 2 patches, got 2 x 1"),
        (pixels[..., :0], r"must be \(batch, frames, 3, height, width\), got"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**{**inputs, name: bad})


def test_arrays_and_lists_in_the_place_of_tensors_are_refused():
    model = build(VideoMambaForPreTraining)
    for pixels in (CLIPS.numpy(), [CLIPS[0], CLIPS[1]]):
        with pytest.raises(ValueError, match="pixels must be a tensor, as a processor makes it, got"):
            model(pixels)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    for given in (mask.numpy(), mask.tolist()):
        with pytest.raises(ValueError, match=r"bool_masked_pos must be a tensor of \(2, 16\) in bool, got"):
            model(CLIPS, bool_masked_pos=given)


def test_a_teacher_of_nan_is_no_teacher(retrieval):
    student = build(VideoMambaForPreTraining)
    features = torch.full((1, 2, 17, 6), torch.nan)
    with pytest.raises(ValueError, match="teacher_features must be finite"):
        student(CLIPS, teacher_features=features)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    with pytest.raises(ValueError, match="teacher_features must be finite"):
        retrieval(CLIPS, IDS, bool_masked_pos=mask, teacher_features=features)
    classifier = VideoMambaForVideoClassification(VideoMambaConfig(**SIZES, distillation_size=5)).eval()
    with pytest.raises(ValueError, match="teacher_features must be finite"):
        classifier(CLIPS, teacher_features=torch.full((2, 17, 5), torch.inf))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "labels must be a tensor, got list"),
        (torch.tensor([True, False]), "labels must be whole numbers of classes, got torch.bool"),
        (torch.full((2, 3), torch.nan), "labels must be finite"),
        (torch.tensor([[1.5, -0.5, 0.0]] * 2), "labels must be probabilities of classes, got negative ones"),
    ],
)
def test_labels_that_are_none_are_refused_and_change_no_configuration(labels, message):
    model = build(VideoMambaForVideoClassification)
    with pytest.raises(ValueError, match=message):
        model(CLIPS, labels=labels)
    assert model.config.problem_type is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_classes_are_whole_numbers_of_any_width(dtype):
    model = build(VideoMambaForVideoClassification)
    labels = torch.tensor([0, 2])
    wanted = model(CLIPS, labels=labels).loss
    assert torch.equal(model(CLIPS, labels=labels.to(dtype)).loss, wanted)


def test_whole_numbers_are_values_where_values_are_learned():
    model = VideoMambaForVideoClassification(VideoMambaConfig(**{**SIZES, "num_labels": 1})).eval()
    loss = model(CLIPS, labels=torch.tensor([3, 1])).loss
    assert torch.equal(loss, model(CLIPS, labels=torch.tensor([3.0, 1.0])).loss)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"input_ids": IDS + 40}, "input_ids must be of the 40 tokens of the text model"),
        ({"input_ids": IDS[:, :0]}, r"input_ids must be \(batch, tokens\) with 1 to 8 tokens, got \(2, 0\)"),
        ({"input_ids": torch.ones(2, 9, dtype=torch.long)}, r"with 1 to 8 tokens, got \(2, 9\)"),
        ({"attention_mask": torch.tensor([[1, 1, 0], [0, 0, 0]])}, "must leave a token of each text, got all hidden"),
        ({"bool_masked_pos": torch.ones(2, 16, dtype=torch.bool)}, "must leave a patch visible in each clip"),
        ({"pixel_values_videos": CLIPS[:, :3]}, "must have 4 frames, got 3"),
    ],
)
def test_texts_that_a_bert_cannot_read_are_refused(retrieval, changed, message):
    with pytest.raises(ValueError, match=message):
        retrieval(**{"pixel_values_videos": CLIPS, "input_ids": IDS, **changed})


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (None, "videos must be a video, .* got NoneType"),
        ([], "videos must be a video, .* none of them empty"),
        ([[]], "videos must be a video, .* none of them empty"),
        (3, "videos must be a video, .* got int"),
        (np.array(["a"]), "videos must be a video"),
        (np.zeros((0, 20, 20, 3), np.uint8), "a clip must hold at least one frame and one pixel"),
        (np.full((4, 20, 20, 3), np.nan), "pixels must be finite, got NaN or infinity"),
        (np.zeros((4, 20, 20, 3), complex), "pixels must be numbers, got complex128"),
        (np.zeros((4, 20, 20, 3), bool), "pixels must be numbers, got bool"),
        (torch.zeros(4, 3, 20, 20, device="meta"), "pixels must be in memory, got a tensor on the device meta"),
        (b"", "cannot be read as a video"),
        ("nosuch.mp4", "a video must be a local file or an http.* got 'nosuch.mp4'"),
    ],
    ids=range(12),
)
def test_a_clip_that_is_none_is_refused_by_the_processor_and_by_the_pipeline(clip, message):
    side = {"height": 16, "width": 16}
    processor = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 16}, crop_size=side)
    with pytest.raises((ValueError, OSError), match=message):
        processor(clip)
    if clip is None or isinstance(clip, list) and not clip:
        return  # the pipeline has no words for these itself
    model = build(VideoMambaForVideoClassification)
    with pytest.raises((ValueError, OSError), match=message):
        VideoClassificationPipeline(model=model, video_processor=processor)(clip)


def test_a_clip_of_one_pixel_is_a_clip():
    side = {"height": 16, "width": 16}
    processor = VideoMambaVideoProcessor(num_frames=4, size={"shortest_edge": 16}, crop_size=side)
    pixels = processor(np.full((4, 3, 1, 1), 255, np.uint8), return_tensors="pt")["pixel_values_videos"]
    assert pixels.shape == (1, 4, 3, 16, 16) and pixels.std(dim=(0, 1, 3, 4)).max() == 0


def test_a_spread_of_new_weights_that_is_no_number_is_refused():
    for value in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="initializer_range must be zero or more, got"):
            VideoMambaConfig(**SIZES, initializer_range=value)
