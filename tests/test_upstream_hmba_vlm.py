"""The suites that transformers runs over its own models and configurations, run over H-MBA's on a LLaVA."""

import unittest
from contextlib import nullcontext
from unittest.mock import patch

import torch

from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration, HMBAVLMModel
from upstream_suites import ConfigTester, ModelTesterMixin, account_for, introduce, modeling

introduce("hmba_vlm", model=HMBAVLMModel, model_for_image_text_to_text=HMBAVLMForConditionalGeneration)
ids_tensor = modeling.ids_tensor
IMAGE_TOKEN_ID = 60
IMAGE_SIZE = 28

FAILURES = {
    "test_generation_tester_mixin_inheritance": "the source release lacks the suite for generation",
}
SKIPS = {
    "test_eager_matches_batched_and_grouped_inference_*": "no experts",
    "test_encoder_decoder_loss_no_double_shift": "no encoder-decoder",
    "test_model_rope_with_partial_rotation": "rotary embeddings turn whole heads",
    "test_moe_models_record_router_logits": "no experts",
    "test_output_router_logits_from_config": "no experts",
    "test_resize_position_vector_embeddings": "positions are rotary",
    "test_reverse_loading_mapping": "no weight is renamed",
    "test_eager_matches_sdpa_inference_24_*": "the base answers for the attention that it returns",
    "test_sdpa_can_dispatch_composite_models": "the parts are the base's, and its own suite asks them",
    "test_tp_plan_matches_params": "the plan is the base's",
    "test_sdpa_can_dispatch_non_composite_models": "the model is composite",
    "test_sliding_window_mask": "no sliding window",
    "test_torch_compile_for_training": "compiles for a GPU",
    "test_vision_axial_rope": "no axial positions",
}
# A tower whose every weight takes part in what the language model reads.
TOWER = {
    "model_type": "ijepa",
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": IMAGE_SIZE,
    "patch_size": 14,
    "tie_last_hidden_states": True,  # the last hidden state is the one behind the last norm
}


class HMBAVLMModelTester:
    """Gives the suites a tiny model and a batch of prompts that begin with a clip."""

    is_training = True
    batch_size = 7  # as many as the suite would fill the batch up to
    num_frames = 2  # one earlier frame, for the suite cuts all inputs to the size of a batch
    num_patches = 4
    seq_length = num_patches + 7
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    base_model_class = HMBAVLMModel
    causal_lm_class = HMBAVLMForConditionalGeneration
    tie_word_embeddings = False

    def get_config(self) -> HMBAVLMConfig:
        text_config = {
            "model_type": "llama",
            "vocab_size": 99,
            "hidden_size": self.hidden_size,
            "intermediate_size": 37,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "pad_token_id": 0,
        }
        base_config = {
            "model_type": "llava",
            "vision_config": TOWER,
            "text_config": text_config,
            "image_token_index": IMAGE_TOKEN_ID,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "tie_word_embeddings": self.tie_word_embeddings,
        }
        # Without a gate the adapter takes part in every output from the start.
        return HMBAVLMConfig(base_config=base_config, num_frames=self.num_frames, gated=False)

    def prepare_config_and_inputs_for_common(self) -> tuple[HMBAVLMConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        input_ids = torch.randint(1, IMAGE_TOKEN_ID, (self.batch_size, self.seq_length))
        input_ids[:, : self.num_patches] = config.image_token_id
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": torch.rand(self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE),
            "past_pixel_values": torch.rand(self.batch_size, 3, IMAGE_SIZE, IMAGE_SIZE),
            "past_lengths": torch.ones(self.batch_size, dtype=torch.long),
        }
        return config, inputs


@account_for(FAILURES, SKIPS)
class HMBAVLMModelTest(ModelTesterMixin, unittest.TestCase):
    test_can_init_all_missing_weights_before_2023 = True
    all_model_classes = (HMBAVLMModel, HMBAVLMForConditionalGeneration)
    additional_model_inputs = ["pixel_values", "past_pixel_values", "past_lengths"]
    _is_composite = True

    def setUp(self):
        self.model_tester = HMBAVLMModelTester()
        # The suite draws prompts from the whole vocabulary; an image token without its picture is refused.
        patcher = patch.object(
            modeling, "ids_tensor", lambda shape, vocab: ids_tensor(shape, min(vocab, IMAGE_TOKEN_ID))
        )
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_tied_weights_keys(self):
        self.model_tester.tie_word_embeddings = True  # the base ties by its own configuration
        super().test_tied_weights_keys()

    def test_bc_cache_name_forward(self):
        # The old name of the cache is to bring a warning; here both names are taken, and none is deprecated.
        self.subTest = lambda name: nullcontext()
        with self.assertRaisesRegex(AssertionError, "False is not true"):
            super().test_bc_cache_name_forward()


@account_for({}, {})
class HMBAVLMConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = HMBAVLMModelTester()
        ConfigTester(
            self, HMBAVLMConfig, has_text_modality=False, num_frames=7, temporal_strides=[1, 3], fusion="concat"
        ).run_common_tests()
