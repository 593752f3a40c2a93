"""The suites that transformers runs over its own models and configurations, run over H-MBA's."""

import unittest
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAModel
from upstream_suites import ConfigTester, ModelTesterMixin, account_for, introduce, modeling

introduce("hmba", model=HMBAModel, model_for_image_text_to_text=HMBAForConditionalGeneration)
ids_tensor = modeling.ids_tensor
VIDEO_TOKEN_ID = 60

FAILURES = {
    "test_generation_tester_mixin_inheritance": "the source release lacks the suite for generation",
    "test_multimodal_outputs_are_returned": "no images: features of videos are `video_hidden_states`",
}
SKIPS = {
    "test_eager_matches_batched_and_grouped_inference_*": "no experts",
    "test_encoder_decoder_loss_no_double_shift": "no encoder-decoder",
    "test_model_rope_with_partial_rotation": "rotary embeddings turn whole heads",
    "test_moe_models_record_router_logits": "no experts",
    "test_output_router_logits_from_config": "no experts",
    "test_resize_position_vector_embeddings": "positions are rotary",
    "test_reverse_loading_mapping": "no weight is renamed",
    "test_sdpa_can_dispatch_non_composite_models": "the model is composite",
    "test_sliding_window_mask": "no sliding window",
    "test_torch_compile_for_training": "compiles for a GPU; a test of our own compiles the forward",
    "test_vision_axial_rope": "no axial positions",
}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
# CLIP has weights behind the layer that is read, which get no gradient, and initialises some only on construction;
# the suites ask both of every weight. In this tower every weight takes part.
IJEPA = {
    **CLIP,
    "model_type": "ijepa",
    "tie_last_hidden_states": True,  # the last hidden state is the one behind the last norm
}


class HMBAModelTester:
    """Gives the suites a tiny model and a batch of prompts that begin with a video."""

    is_training = True
    batch_size = 7  # as many as the suite would fill the batch up to
    num_frames = 3
    num_patches = 4
    seq_length = num_patches + 7
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    base_model_class = HMBAModel
    causal_lm_class = HMBAForConditionalGeneration

    def __init__(self, preset: Callable[..., HMBAConfig] = HMBAConfig):
        self.preset = preset
        # Without a gate the adapter takes part in every output from the start.
        self.choices: dict[str, object] = {"vision_config": CLIP, "gated": False}

    def get_config(self) -> HMBAConfig:
        text_config = {
            "model_type": "llama",
            "vocab_size": 99,
            "hidden_size": self.hidden_size,
            "intermediate_size": 37,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "pad_token_id": 0,
        }
        return self.preset(
            text_config=text_config, video_token_id=VIDEO_TOKEN_ID, num_frames=self.num_frames, **self.choices
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[HMBAConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        input_ids = torch.randint(1, VIDEO_TOKEN_ID, (self.batch_size, self.seq_length))
        input_ids[:, : self.num_patches] = config.video_token_id
        pixels = torch.rand(self.batch_size, self.num_frames, 3, CLIP["image_size"], CLIP["image_size"])
        mask = torch.ones_like(input_ids)
        return config, {"input_ids": input_ids, "attention_mask": mask, "pixel_values_videos": pixels}


@account_for(FAILURES, SKIPS)
class HMBAModelTest(ModelTesterMixin, unittest.TestCase):
    preset: Callable[..., HMBAConfig] = HMBAConfig
    all_model_classes = (HMBAModel, HMBAForConditionalGeneration)
    test_can_init_all_missing_weights_before_2023 = True
    additional_model_inputs = ["pixel_values_videos"]
    _is_composite = True

    def setUp(self):
        self.model_tester = HMBAModelTester(type(self).preset)
        # The suite draws prompts from the whole vocabulary; a video token without its video is refused.
        patcher = patch.object(
            modeling, "ids_tensor", lambda shape, vocab: ids_tensor(shape, min(vocab, VIDEO_TOKEN_ID))
        )
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_bc_cache_name_forward(self):
        # The old name of the cache is to bring a warning; here both names are taken, and none is deprecated.
        self.subTest = lambda name: nullcontext()
        with self.assertRaisesRegex(AssertionError, "False is not true"):
            super().test_bc_cache_name_forward()

    def use_tower_without_idle_weights(self):
        self.model_tester.choices = {"vision_config": IJEPA, "vision_feature_layer": -1}

    def check_training_gradient_checkpointing(self, *args, **kwargs):
        self.use_tower_without_idle_weights()
        super().check_training_gradient_checkpointing(*args, **kwargs)

    def test_can_init_all_missing_weights(self):
        self.use_tower_without_idle_weights()
        super().test_can_init_all_missing_weights()


class HMBAReleasedModelTest(HMBAModelTest):
    preset = HMBAConfig.released


@account_for({}, {})
class HMBAConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = HMBAModelTester()
        ConfigTester(
            self, HMBAConfig, has_text_modality=False, num_frames=7, temporal_strides=[1, 3], fusion="concat"
        ).run_common_tests()
