"""Write a tiny LLaVA with random weights, in an environment that has the wheel: `python tiny_llava.py FOLDER`."""

import json
import sys
from importlib.resources import files
from pathlib import Path

from transformers import AutoTokenizer, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

folder = Path(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(str(files("hmba_hf") / "micro_base"))
tokenizer.add_tokens(["<image>"], special_tokens=True)
sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
config = LlavaConfig(
    vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=16),
    text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=2048),
    image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
)
LlavaForConditionalGeneration(config).save_pretrained(folder)
tokenizer.save_pretrained(folder)
side = config.vision_config.image_size
pictures = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": side},
    "crop_size": {"height": side, "width": side},
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
(folder / "preprocessor_config.json").write_text(json.dumps(pictures))
