"""The suites that transformers runs over its own models and configurations, run over VideoMamba's."""

import unittest
from copy import deepcopy

import torch

from hmba_hf.models.configuration_videomamba import VideoMambaConfig
from hmba_hf.models.modeling_videomamba import (
    VideoMambaForImageClassification,
    VideoMambaForPreTraining,
    VideoMambaForVideoClassification,
    VideoMambaModel,
)
from upstream_suites import ConfigTester, ModelTesterMixin, account_for, introduce

introduce(
    "videomamba",
    model=VideoMambaModel,
    model_for_pretraining=VideoMambaForPreTraining,
    model_for_video_classification=VideoMambaForVideoClassification,
    model_for_image_classification=VideoMambaForImageClassification,
)

FAILURES: dict[str, str] = {}
SKIPS = {
    "test_*_composite_model*": "no parts",
    "test_attention_outputs": "no attention",
    "test_bc_cache_name_forward": "no cache",
    "test_can_capture_specific_layers_hidden_states": "hidden states are residuals, which the model returns itself",
    "test_can_init_all_missing_weights": "the suite asks it of a list of models of its own",
    "test_can_load_from_already_mapped_keys": "no weight is renamed",
    "test_can_set_attention_dynamically": "no attention",
    "test_capture_outputs_decorator": "as `test_can_capture_specific_layers_hidden_states`",
    "test_causal_lm_loss_honors_shift_labels": "no language model",
    "test_eager_matches_batched_and_grouped_inference_*": "no experts",
    "test_eager_matches_sdpa_inference_*": "no attention",
    "test_enable_input_require_grads_with_gradient_checkpointing": "patches are no table of tokens",
    "test_encoder_decoder_loss_no_double_shift": "no language model",
    "test_inputs_embeds*": "no tokens of a text",
    "test_internal_model_config_and_subconfig_are_same": "no parts",
    "test_model_rope_*": "no rotary embeddings",
    "test_moe_models_record_router_logits": "no experts",
    "test_multimodal_outputs_are_returned": "one modality",
    "test_output_router_logits_from_config": "no experts",
    "test_resize_*": "no tokens of a text",
    "test_reverse_loading_mapping": "no weight is renamed",
    "test_sliding_window_mask": "no attention",
    "test_torch_compile_for_training": "compiles for a GPU; a test of our own compiles the forward",
    "test_tp_plan_matches_params": "no plan of tensor parallelism",
    "test_vision_axial_rope": "no rotary embeddings",
}


class VideoMambaModelTester:
    """Gives the suites a tiny model and a batch of clips."""

    is_training = True
    batch_size = 5
    num_frames = 2
    num_patches = 4
    num_labels = 3
    seq_length = num_frames * num_patches + 1
    num_hidden_layers = 2
    hidden_size = 24
    base_model_class = VideoMambaModel

    def get_config(self) -> VideoMambaConfig:
        return VideoMambaConfig(
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            state_size=4,
            image_size=16,
            patch_size=8,
            num_frames=self.num_frames,
            num_labels=self.num_labels,
            alignment_size=10,
            align_last_output=True,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[VideoMambaConfig, dict[str, torch.Tensor]]:
        pixels = torch.rand(self.batch_size, self.num_frames, 3, 16, 16)
        return self.get_config(), {"pixel_values_videos": pixels}


@account_for(FAILURES, SKIPS)
class VideoMambaModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (VideoMambaModel, VideoMambaForVideoClassification, VideoMambaForPreTraining)
    has_attentions = False
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = VideoMambaModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = deepcopy(inputs_dict)
        pixels = inputs["pixel_values_videos"]
        if return_labels and model_class is VideoMambaForVideoClassification:
            inputs["labels"] = torch.zeros(len(pixels), dtype=torch.long)
        if return_labels and model_class is VideoMambaForPreTraining:
            inputs["teacher_features"] = torch.ones(1, len(pixels), self.model_tester.seq_length, 10)
        return inputs

    def test_model_get_set_embeddings(self):
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIs(model.get_input_embeddings(), model.base_model.embeddings.patch_embeddings)
            layer = torch.nn.Linear(1, 1)
            model.set_input_embeddings(layer)
            self.assertIs(model.get_input_embeddings(), layer)
            self.assertIsNone(model.get_output_embeddings())


@account_for({}, {})
class VideoMambaConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = VideoMambaModelTester()
        ConfigTester(
            self,
            VideoMambaConfig,
            common_properties=["hidden_size", "num_hidden_layers"],
            has_text_modality=False,
            num_frames=4,
            scan_type="alternating",
        ).run_common_tests()
