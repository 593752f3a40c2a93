"""The suites that transformers runs over its own models and configurations, run over MambaVL's."""

import unittest
from copy import deepcopy

import torch

from hmba_hf.models.configuration_mambavl import MambaVLConfig
from hmba_hf.models.modeling_mambavl import MambaVLForVideoClassification, MambaVLModel
from upstream_suites import ConfigTester, ModelTesterMixin, account_for, introduce

_MASKED = (
    "00_fp16_pad_left_sdpa_kernels",
    "01_fp16_pad_left",
    "04_fp16_pad_right_sdpa_kernels",
    "05_fp16_pad_right",
    "08_fp32_pad_left_sdpa_kernels",
    "09_fp32_pad_left",
    "12_fp32_pad_right_sdpa_kernels",
    "13_fp32_pad_right",
    "16_bf16_pad_left_sdpa_kernels",
    "17_bf16_pad_left",
    "20_bf16_pad_right_sdpa_kernels",
    "21_bf16_pad_right",
    "24_fp32_pad_left_output_attentions",
)
introduce("mambavl", model=MambaVLModel, model_for_video_classification=MambaVLForVideoClassification)

_ALONE = "the suite passes the mask of the questions without them"
FAILURES = {
    "test_resize_tokens_embeddings": "the suite takes the axis of the heads for that of the tokens; see our own test",
    **{f"test_eager_matches_sdpa_inference_{case}": _ALONE for case in _MASKED},
}
SKIPS = {
    "test_bc_cache_name_forward": "no cache",
    "test_can_load_ignoring_mismatched_shapes": "classifiers are in a dictionary; a test of our own replaces one",
    "test_can_init_all_missing_weights": "the suite asks it of a list of models of its own",
    "test_causal_lm_loss_honors_shift_labels": "no language model",
    "test_inputs_embeds*": "questions come as tokens",
    "test_eager_matches_batched_and_grouped_inference_*": "no experts",
    "test_encoder_decoder_loss_no_double_shift": "no language model",
    "test_model_rope_*": "no rotary embeddings",
    "test_moe_models_record_router_logits": "no experts",
    "test_output_router_logits_from_config": "no experts",
    "test_resize_position_vector_embeddings": "no position table of its own",
    "test_sdpa_can_dispatch_non_composite_models": "the model is composite",
    "test_sliding_window_mask": "no sliding window",
    "test_tp_plan_matches_params": "no plan of tensor parallelism",
    "test_vision_axial_rope": "no axial positions",
    "test_torch_compile_for_training": "compiles for a GPU",
}
# A model of pictures whose every weight takes part in the tokens that are read, and starts from the config alone.
PICTURES = {
    "model_type": "ijepa",
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "tie_last_hidden_states": True,  # the last hidden state is the one behind the last norm
}
TEXTS = {
    "model_type": "roberta",
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}


class MambaVLModelTester:
    """Gives the suites a tiny model and a batch of clips, each with a question."""

    is_training = True
    batch_size = 3
    num_frames = 2
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    seq_length = 4
    base_model_class = MambaVLModel

    def get_config(self) -> MambaVLConfig:
        return MambaVLConfig(
            vision_config=PICTURES,
            text_config=TEXTS,
            heads={"action": 3},
            state_size=4,
            text_features="contextual",
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MambaVLConfig, dict[str, torch.Tensor]]:
        inputs = {
            "pixel_values_videos": torch.rand(self.batch_size, self.num_frames, 3, 16, 16),
            "input_ids": torch.randint(5, 60, (self.batch_size, 1, 6)),
            "attention_mask": torch.ones(self.batch_size, 1, 6, dtype=torch.long),
        }
        return self.get_config(), inputs


@account_for(FAILURES, SKIPS)
class MambaVLModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MambaVLModel, MambaVLForVideoClassification)
    additional_model_inputs = ["pixel_values_videos"]
    _is_composite = True

    def setUp(self):
        self.model_tester = MambaVLModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = deepcopy(inputs_dict)
        if return_labels and model_class is MambaVLForVideoClassification:
            inputs["labels"] = torch.zeros(len(inputs["pixel_values_videos"]), dtype=torch.long)
        return inputs


@account_for({}, {})
class MambaVLConfigTest(unittest.TestCase):
    def test_config(self):
        self.model_tester = MambaVLModelTester()
        ConfigTester(
            self,
            MambaVLConfig,
            common_properties=["hidden_size"],
            has_text_modality=False,
            fusion="mlp",
            share_A=False,
        ).run_common_tests()
