"""The suite by which transformers checks that a model can learn a batch by heart, run over H-MBA.

It trains on text alone: of a model with videos it sees the language model only. `test_modeling_hmba.py` has videos
learned by heart, `test_finetuning_hmba_vlm.py` an adapter on a vision-language model that learns.
"""

import unittest

from hmba_hf import HMBAConfig, HMBAVLMConfig
from test_upstream_hmba_vlm import HMBAVLMModelTester
from test_upstream_model import HMBAModelTester
from upstream_suites import TrainingTesterMixin, account_for


class TextModelTester(HMBAModelTester):
    def get_config(self) -> HMBAConfig:
        config = super().get_config()
        config.vocab_size = config.text_config.vocab_size  # the suite looks for it at the top
        return config


class TextOnAnyBaseTester(HMBAVLMModelTester):
    def get_config(self) -> HMBAVLMConfig:
        config = super().get_config()
        config.vocab_size = config.get_text_config().vocab_size
        return config


@account_for({}, {})
class HMBATrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = TextModelTester()


@account_for({}, {})
class HMBAVLMTrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = TextOnAnyBaseTester()
