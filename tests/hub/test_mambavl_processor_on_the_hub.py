"""A MambaVL's processor goes to the Hub and comes back, beside a model or by itself."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from hmba_hf import MambaVLProcessor, MambaVLVideoProcessor
from tiny_mambavl import HEADS, tiny_config
from tiny_questions import tiny_question_processor

NAME = "org/questions"
VIDEO = np.full((3, 20, 24, 3), 40, dtype=np.uint8)


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_processor_comes_back_with_heads_questions_and_code(hub, way, tmp_path):
    processor = tiny_question_processor(heads=HEADS, max_text_length=20)
    if way == "push_to_hub":
        processor.push_to_hub(NAME)
    else:
        processor.save_pretrained(tmp_path / "questions", push_to_hub=True, repo_id=NAME)
    repository = hub.repository(NAME)
    assert repository.private
    code = {"processing_mambavl.py", "parsing_words.py", "reading_texts.py", "video_processing_mambavl.py"}
    assert {"processor_config.json", "tokenizer.json", *code} <= repository.files().keys()
    tiny_config().push_to_hub(NAME)
    again = AutoProcessor.from_pretrained(NAME)
    assert type(again) is MambaVLProcessor and again.to_dict() == processor.to_dict()
    for name, values in again(videos=VIDEO).items():
        assert torch.equal(values, processor(videos=VIDEO)[name])


def test_a_video_processor_is_pushed_alone(hub):
    MambaVLVideoProcessor.of_backbone("avion", num_frames=4).push_to_hub(NAME)
    assert "video_processing_mambavl.py" in hub.repository(NAME).files()
    again = AutoVideoProcessor.from_pretrained(NAME)
    assert type(again) is MambaVLVideoProcessor and again.num_frames == 4


def test_a_push_to_a_branch_and_by_a_request_is_refused_before_anything_is_written(hub, tmp_path):
    options = {"push_to_hub": True, "repo_id": NAME, "create_pr": True, "revision": "night"}
    with pytest.raises(ValueError, match="a pull request begins at main"):
        tiny_question_processor().save_pretrained(tmp_path / "questions", **options)
    assert not (tmp_path / "questions").exists()
