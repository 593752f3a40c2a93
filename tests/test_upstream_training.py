"""The suite by which transformers checks that a model can learn a batch by heart, run over H-MBA.

It trains on text alone: of a model with videos it sees the language model only. `test_modeling_hmba.py` has videos
learned by heart.
"""

import unittest

from hmba_hf import HMBAConfig
from test_upstream_model import HMBAModelTester
from upstream_suites import TrainingTesterMixin, account_for


class TextModelTester(HMBAModelTester):
    def get_config(self) -> HMBAConfig:
        config = super().get_config()
        config.vocab_size = config.text_config.vocab_size  # the suite looks for it at the top
        return config


@account_for({}, {})
class HMBATrainingTest(TrainingTesterMixin, unittest.TestCase):
    model_tester = TextModelTester()
