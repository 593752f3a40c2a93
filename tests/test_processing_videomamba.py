import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from hmba_hf.models.processing_videomamba import VideoMambaProcessor
from tiny_pairs import tiny_pair_processor, tiny_retrieval

VIDEOS = [np.full((3, 20, 24, 3), 40 * number, dtype=np.uint8) for number in range(2)]
TEXTS = ["a square moves left", "it turns"]


def test_videos_and_texts_become_inputs_of_the_model():
    inputs = tiny_pair_processor()(videos=VIDEOS, text=TEXTS)
    assert inputs["pixel_values_videos"].shape == (2, 3, 3, 16, 16)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 6)
    assert inputs["attention_mask"].sum(dim=1).tolist() == [6, 4]
    assert tiny_retrieval()(**inputs).logits_per_video.shape == (2, 2)


def test_long_texts_are_cut():
    processor = tiny_pair_processor(max_text_length=5)
    tokens = processor(text="a square moves left and left and left")["input_ids"]
    assert processor.tokenizer.decode(tokens[0]) == "[CLS] a square moves [SEP]"


def test_videos_alone_and_texts_alone_are_taken():
    processor = tiny_pair_processor()
    assert set(processor(videos=VIDEOS[0])) == {"pixel_values_videos"}
    assert set(processor(text=TEXTS)) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="got neither"):
        processor()
    with pytest.raises(ValueError, match="options must be of videos, got \\['num_frames'\\]"):
        processor(text=TEXTS, num_frames=2)


def test_a_saved_processor_comes_back_and_carries_its_code(tmp_path):
    processor = tiny_pair_processor(max_text_length=7)
    tiny_retrieval().config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is VideoMambaProcessor
    assert again.max_text_length == 7
    wanted = processor(videos=VIDEOS, text=TEXTS)
    for name, values in again(videos=VIDEOS, text=TEXTS).items():
        assert torch.equal(values, wanted[name])
    assert (tmp_path / "processing_videomamba.py").exists()
    assert (tmp_path / "video_processing_videomamba.py").exists()


def test_options_of_loading_are_those_of_the_processor_and_its_parts(tmp_path):
    tiny_pair_processor().save_pretrained(tmp_path)
    loaded = VideoMambaProcessor.from_pretrained(tmp_path, max_text_length=7, num_frames=5)
    assert (loaded.max_text_length, loaded.video_processor.num_frames) == (7, 5)
    with pytest.raises(ValueError, match=r"options must be those of loading or among .*, got \['max_text_lenght'\]"):
        VideoMambaProcessor.from_pretrained(tmp_path, max_text_lenght=7)


def test_a_part_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="video_processor must be a video processor, got str"):
        VideoMambaProcessor("videos", tiny_pair_processor().tokenizer)
    with pytest.raises(ValueError, match="max_text_length must be at least 1"):
        tiny_pair_processor(max_text_length=0)
