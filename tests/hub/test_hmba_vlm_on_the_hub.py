"""A processor of H-MBA on a vision-language model goes to the Hub and comes back, and so does a pipeline."""

import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, pipeline

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor
from tiny_models import open_adapter
from tiny_vlm_bases import BASES, save_vlm

NAME = "org/frames"
CLIP = [Image.new("RGB", (40, 24), (0, 40 * number, 80)) for number in range(3)]


def test_a_processor_comes_back_with_its_base_and_code(hub):
    processor = HMBAVLMProcessor(BASES["qwen3_vl"]()[1], boxes_dialect="thousand", time_format=" {seconds} s ")
    processor.push_to_hub(NAME)
    files = hub.repository(NAME).files().keys()
    code = {"processing_hmba_vlm.py", "batching_hmba_vlm.py", "loading_processors.py", "video_processing_hmba.py"}
    assert {"processor_config.json", "tokenizer.json", "chat_template.jinja", *code} <= files
    again = AutoProcessor.from_pretrained(NAME)
    assert type(again) is HMBAVLMProcessor and again.to_dict() == processor.to_dict()
    assert AutoTokenizer.from_pretrained(NAME).get_vocab() == processor.tokenizer.get_vocab()
    wanted = processor(text=processor.video_token, videos=[CLIP], return_tensors="pt")
    found = again(text=again.video_token, videos=[CLIP], return_tensors="pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], values) for name, values in wanted.items())


def test_a_pipeline_comes_back(hub, tmp_path):
    save_vlm("qwen3_vl", tmp_path)
    model = HMBAVLMForConditionalGeneration.from_base_pretrained(str(tmp_path))
    open_adapter(model.model.temporal_adapter)
    processor = HMBAVLMProcessor.from_base_pretrained(str(tmp_path))
    pipe = pipeline("video-text-to-text", model=model, processor=processor, device="cpu", max_new_tokens=4)
    pipe.push_to_hub(NAME)
    again = pipeline("video-text-to-text", model=NAME, device="cpu", max_new_tokens=4)
    assert type(again.processor) is HMBAVLMProcessor and again.processor.boxes_dialect == "thousand"
    assert again(videos=CLIP, text="What?") == pipe(videos=CLIP, text="What?")
