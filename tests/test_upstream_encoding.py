"""The suites that transformers runs over its own models and configurations, run over MambaVL's video models."""

import unittest
from typing import Any

import torch

from hmba_hf.models.configuration_mambavl import MambaVLMotionformerConfig, MambaVLVisionConfig
from hmba_hf.models.encoding_mambavl import MambaVLMotionformerModel, MambaVLVisionModel
from tiny_motionformer import tiny_motionformer_config
from upstream_suites import ConfigTester, ModelTesterMixin, account_for, introduce

introduce("mambavl_vision", model=MambaVLVisionModel)
introduce("mambavl_motionformer", model=MambaVLMotionformerModel)
FAILURES = {"test_model_get_set_embeddings": "no text: what embeds is a convolution"}
SKIPS = {
    "test_attn_implementation_composite_models": "the model is not composite",
    "test_bc_cache_name_forward": "no cache",
    "test_can_init_all_missing_weights": "the suite asks it of a list of models of its own",
    "test_can_load_from_already_mapped_keys": "no names of older checkpoints",
    "test_can_load_ignoring_mismatched_shapes": "no head",
    "test_can_set_attention_dynamically_composite_model": "the model is not composite",
    "test_causal_lm_loss_honors_shift_labels": "no language model",
    "test_eager_matches_batched_and_grouped_inference_*": "no experts",
    "test_encoder_decoder_loss_no_double_shift": "no language model",
    "test_inputs_embeds*": "clips come as pixels",
    "test_internal_model_config_and_subconfig_are_same": "no part has a configuration",
    "test_keep_in_fp32_modules*": "no part must stay wide",
    "test_model_rope_*": "no rotary embeddings",
    "test_moe_models_record_router_logits": "no experts",
    "test_output_router_logits_from_config": "no experts",
    "test_resize_embeddings_untied*": "no text",
    "test_resize_position_vector_embeddings": "no position table that the suite could resize",
    "test_resize_tokens_embeddings": "no text",
    "test_reverse_loading_mapping": "no names of older checkpoints",
    "test_sdpa_can_dispatch_composite_models": "the model is not composite",
    "test_sliding_window_mask": "no sliding window",
    "test_torch_compile_for_training": "compiles for a GPU",
    "test_tp_plan_matches_params": "no plan of tensor parallelism",
    "test_vision_axial_rope": "no axial positions",
}
# Of a model that attends in two steps, whose weights are no matrix of tokens by tokens.
WITHOUT_ATTENTIONS = {
    "test_attention_outputs": "attention returns no weights",
    "test_eager_matches_sdpa_inference_*": "attention has one implementation",
    "test_multimodal_outputs_are_returned": "attention returns no weights",
    "test_sdpa_can_dispatch_non_composite_models": "attention has one implementation",
}


class EncoderTester:
    """Gives the suites a tiny model and a batch of clips."""

    is_training = True
    batch_size = 3
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    seq_length = 1 + 2 * 4
    base_model_class = MambaVLVisionModel

    def get_config(self) -> MambaVLVisionConfig:
        return MambaVLVisionConfig(
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            image_size=16,
            patch_size=8,
            num_frames=2,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MambaVLVisionConfig, dict[str, torch.Tensor]]:
        return self.get_config(), {"pixel_values_videos": torch.rand(self.batch_size, 2, 3, 16, 16)}


@account_for(FAILURES, SKIPS)
class MambaVLVisionModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MambaVLVisionModel,)
    additional_model_inputs = ["pixel_values_videos"]
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = EncoderTester()


@account_for({}, {})
class MambaVLVisionConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = EncoderTester()
        ConfigTester(
            self, MambaVLVisionConfig, has_text_modality=False, hidden_size=36, num_frames=2
        ).run_common_tests()


class MotionformerTester(EncoderTester):
    """Gives the suites a tiny model and a batch of clips with boxes."""

    base_model_class = MambaVLMotionformerModel

    def get_config(self) -> Any:
        return tiny_motionformer_config(num_hidden_layers=self.num_hidden_layers, object_layers=[1])

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        boxes = torch.tensor([0.5, 0.4, 0.6, 0.5]).repeat(self.batch_size, 4, 3, 1)
        return self.get_config(), {"pixel_values_videos": torch.rand(self.batch_size, 4, 3, 16, 16), "boxes": boxes}


@account_for(FAILURES, {**SKIPS, **WITHOUT_ATTENTIONS})
class MambaVLMotionformerModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MambaVLMotionformerModel,)
    additional_model_inputs = ["pixel_values_videos", "boxes"]
    test_resize_embeddings = False
    has_attentions = False

    def setUp(self):
        self.model_tester = MotionformerTester()


@account_for({}, {})
class MambaVLMotionformerConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = MotionformerTester()
        ConfigTester(
            self, MambaVLMotionformerConfig, has_text_modality=False, hidden_size=36, num_attention_heads=4
        ).run_common_tests()
