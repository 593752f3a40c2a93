"""The suites that transformers runs over its own processors, run over ours."""

import unittest

from hmba_hf import (
    HMBAProcessor,
    HMBAVideoProcessor,
    HMBAVLMProcessor,
    MambaVLProcessor,
    MambaVLVideoProcessor,
    VideoMambaVideoProcessor,
)
from tiny_processors import tiny_tokenizer
from tiny_questions import tiny_clip_reader, tiny_question_tokenizer
from tiny_vlm_bases import BASES
from upstream_suites import ProcessorTesterMixin, VideoProcessingTestMixin, account_for, prepare_video_inputs

PROCESSOR_FAILURES = {
    "test_init_arguments_not_in_processor_kwargs": "a call may have a time format of its own",
    "test_get_num_multimodal_tokens_matches_processor_call": "no image tokens: an image is a video of one frame",
}
PROCESSOR_SKIPS = {
    "test_*_images": "no image processor: an image is a video of one frame",
    "test_apply_chat_template_image_*": "no image processor",
    "test_apply_chat_template_tool_calls_no_content": "the vicuna template knows no tools",
    "test_args_overlap_kwargs": "no image processor",
    "test_processor_text_has_no_visual": "no image processor",
    "test_*audio*": "no audio",
}
VLM_FAILURES = {
    "test_processor_text_has_no_visual": "an image is a clip of one frame, and has no token beside those of videos",
    "test_processor_to_json_string": "the base's processor stands in the file as its settings",
}
IN_BASE = "tokenizer and image processor are parts of the base's processor"
VLM_SKIPS = {
    "test_*_images": IN_BASE,
    "test_*audio*": "no audio",
    "test_apply_chat_template_image_*": IN_BASE,
    "test_apply_chat_template_tool_calls_no_content": "the template of the tiny base knows no tools",
    "test_args_overlap_kwargs": IN_BASE,
    "test_chat_template_save_loading": IN_BASE,
    "test_chat_template_saving_rejects_path_traversal": IN_BASE,
    "test_get_num_multimodal_tokens_matches_processor_call*": "the base's processor counts the tokens of pictures",
    "test_processor_with_multiple_inputs": IN_BASE,
    "test_replacement_offsets": "the base's processor gives the offsets",
    "test_*kwargs*_1_videos": IN_BASE,
    "test_subprocessor_defaults_0_text": IN_BASE,
    "test_tokenizer_decode_defaults": IN_BASE,
}
BY_HEAD = "questions come by head and under that name, and no longer than `max_text_length`"
QUESTION_FAILURES = {
    "test_call_arguments_not_in_attributes": "the questions of a processor are asked where a call has none",
    "test_kwargs_overrides_default_subprocessor_kwargs_1_videos": BY_HEAD,
    "test_processor_with_multiple_inputs": BY_HEAD,
    "test_structured_kwargs_nested_from_dict_1_videos": BY_HEAD,
    "test_subprocessor_defaults_preserved_by_kwargs_1_videos": BY_HEAD,
    "test_unstructured_kwargs_1_videos": BY_HEAD,
    "test_unstructured_kwargs_batched_1_videos": BY_HEAD,
}
QUESTION_SKIPS = {
    "test_*_images": "no image processor",
    "test_*audio*": "no audio",
    "test_apply_chat_template_*": "no chats",
    "test_chat_template_*": "no chats",
    "test_args_overlap_kwargs": "no image processor",
    "test_get_num_multimodal_tokens_matches_processor_call*": "a video takes no tokens among those of questions",
    "test_if_input_has_mismatching_tokens_and_mm_data": "likewise",
    "test_processor_text_has_no_visual": "no image processor",
    "test_replacement_offsets": "a video takes no tokens among those of questions",
}
VIDEO_PROCESSOR_SKIPS = {
    "test_can_compile_fast_video_processor": "PIL is not compiled",
    "test_override_instance_attributes_does_not_affect_other_instances": "size is no dict but a SizeDict",
    "test_video_processor_preprocess_arguments": "no list or decorator of valid arguments, which are checked by type",
}


@account_for(PROCESSOR_FAILURES, PROCESSOR_SKIPS)
class HMBAProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = HMBAProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_tokenizer()

    @classmethod
    def _setup_video_processor(cls):
        return HMBAVideoProcessor(size={"height": 28, "width": 28})

    def prepare_images_inputs(self, *args, **kwargs):
        """Give none: the suite gives images beside videos, and here an image would take a video's place."""

    def prepare_audio_inputs(self, *args, **kwargs):
        """Give none: audio is refused by name."""

    @property
    def video_sampling_expectations(self):
        clip = {"expected_dim": 1, "output_length": 5}  # `num_frames` of the video processor
        whole = {"expected_dim": 1, "output_length": 11, "do_sample_frames": False}
        return [clip, whole, {**whole, "fps": 10}, {**clip, "fps": 10}, {**clip, "num_frames": 3, "output_length": 3}]

    def test_apply_chat_template_video_frame_sampling(self):
        # Everything holds but the last demand, an error that says so: frames that come as images can be sampled.
        with self.assertRaisesRegex(AssertionError, "Sampling frames from a list of images is not supported!"):
            super().test_apply_chat_template_video_frame_sampling()


@account_for(VLM_FAILURES, VLM_SKIPS)
class HMBAVLMProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = HMBAVLMProcessor
    videos_input_name = "past_pixel_values"  # one row for each earlier frame of a LLaVA

    @staticmethod
    def prepare_processor_dict():
        _, base_processor = BASES["llava"]()
        return {"base_processor": base_processor}

    @classmethod
    def _setup_video_processor(cls):
        as_they_are = dict.fromkeys(["do_expand_to_square", "do_resize", "do_rescale", "do_normalize"], False)
        return HMBAVideoProcessor(**as_they_are)

    def prepare_images_inputs(self, *args, **kwargs):
        """Give none: the suite gives images beside videos, and here an image would take a video's place."""

    def prepare_audio_inputs(self, *args, **kwargs):
        """Give none: audio is refused by name."""

    @property
    def video_sampling_expectations(self):
        clip = {"expected_dim": 0, "output_length": 4}  # `num_frames` of the video processor less the current one
        whole = {"expected_dim": 0, "output_length": 10, "do_sample_frames": False}
        return [clip, whole, {**whole, "fps": 10}, {**clip, "fps": 10}, {**clip, "num_frames": 3, "output_length": 2}]

    def test_apply_chat_template_video_frame_sampling(self):
        # Everything holds but the last demand, an error that says so: frames that come as images can be sampled.
        with self.assertRaisesRegex(AssertionError, "Sampling frames from a list of images is not supported!"):
            super().test_apply_chat_template_video_frame_sampling()


class HMBAVideoProcessorTester:
    """Gives the suite random videos and the shape that they should come out in."""

    batch_size = 5
    num_frames = 8
    num_channels = 3

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> list:
        shape = {"num_frames": self.num_frames, "num_channels": self.num_channels}
        resolution = {"min_resolution": 30, "max_resolution": 80, "equal_resolution": equal_resolution}
        return prepare_video_inputs(self.batch_size, **shape, **resolution, return_tensors=return_tensors)

    def expected_output_video_shape(self, videos: list) -> list[int]:
        return [self.num_frames, self.num_channels, 18, 18]


@account_for({}, VIDEO_PROCESSOR_SKIPS)
class HMBAVideoProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = HMBAVideoProcessor
    video_processor_dict = {"size": {"height": 18, "width": 18}}
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = HMBAVideoProcessorTester()

    def test_video_processor_from_dict_with_kwargs(self):
        # The suite expects the sizes of a processor that crops.
        size = {"height": 42, "width": 42}
        self.assertEqual(HMBAVideoProcessor.from_dict(self.video_processor_dict, size=size).size, size)

    def test_call_sample_frames(self):
        # Everything holds up to where `fps` is to set the length of a clip; here it sets the time between its frames.
        with self.assertRaisesRegex(AssertionError, "5 != 6"):
            super().test_call_sample_frames()


class VideoMambaVideoProcessorTester(HMBAVideoProcessorTester):
    """The same for squares that are cut out."""


@account_for({}, VIDEO_PROCESSOR_SKIPS)
class VideoMambaVideoProcessorTest(VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = VideoMambaVideoProcessor
    video_processor_dict = {"size": {"shortest_edge": 20}, "crop_size": {"height": 18, "width": 18}}
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoMambaVideoProcessorTester()

    def test_call_sample_frames(self):
        # Everything holds up to where `fps` is to set the length of a clip; here no option of that name is read.
        with self.assertRaisesRegex(ValueError, "fps must be absent"):
            super().test_call_sample_frames()


@account_for(QUESTION_FAILURES, QUESTION_SKIPS)
class MambaVLProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = MambaVLProcessor

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_question_tokenizer()

    @classmethod
    def _setup_video_processor(cls):
        return tiny_clip_reader()


@account_for({}, VIDEO_PROCESSOR_SKIPS)
class MambaVLVideoProcessorTest(VideoMambaVideoProcessorTest):
    fast_video_processing_class = MambaVLVideoProcessor
