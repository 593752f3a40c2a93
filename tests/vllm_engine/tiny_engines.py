"""Models whose greedy answers no rounding can turn, what they are asked, and what the pipeline answers.

The tower and the adapter are those of the demo's tuned model. The language model is random, with heads as large as
vLLM's attention on CPUs wants them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig, Qwen3Config, pipeline

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration
from hmba_hf.data.clips import write_video
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig

TUNED = Path(__file__).parents[2] / "src" / "hmba_hf" / "micro_tuned"
TOKENS = {"vocab_size": 386, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
OF_TEXT = {**TOKENS, **SIZES, "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.2}
# What a family needs to look at its videos: the scale of the projector's weights.
FAMILIES = {"llama": (LlamaConfig, 1.0), "qwen3": (Qwen3Config, 0.3)}
LENGTH = 12  # of answers, in tokens
MARGIN = 1e-4  # between the logits of the two best tokens; both engines compute to 1e-5
SYSTEM = "You watch the road in front of the car and say in few words what is at risk. "


class Request(NamedTuple):
    """One question.

    Attributes:
        text: of the user.
        videos: in front of it; paths.
        timestamp: the current moment, or one for each video.
        time_format: of the text behind each video.
    """

    text: str
    videos: tuple[str, ...] = ()
    timestamp: Any = None
    time_format: str | None = None

    def for_engine(self) -> dict[str, Any]:
        """Return what `LLM.generate` takes."""
        asked = {"prompt": f"USER: {'<video>' * len(self.videos)}{self.text} ASSISTANT:"}
        if self.videos:
            asked["multi_modal_data"] = {"video": list(self.videos)}
        options = {"timestamp": self.timestamp, "time_format": self.time_format}
        if given := {name: value for name, value in options.items() if value is not None}:
            asked["mm_processor_kwargs"] = given
        return asked

    def for_pipeline(self) -> dict[str, Any]:
        """Return what the pipeline takes."""
        asked: dict[str, Any] = {"text": self.text}
        if self.videos:
            asked |= {"videos": list(self.videos), "timestamp": self.timestamp}
        return asked


def save_model(family: str, folder: Path, **sizes: int) -> None:
    """Write a model of a family of language models, which may have other sizes than `SIZES`."""
    text_class, scale = FAMILIES[family]
    tuned = AutoModelForImageTextToText.from_pretrained(TUNED)
    values = {name: getattr(tuned.config, name) for name in HMBAConfig.__annotations__ if name != "text_config"}
    of_adapter = {
        name: getattr(tuned.config, name) for name in ("adapter", "state_size", "expand", "adapter_num_heads")
    }
    values |= {**of_adapter, "num_frames": tuned.config.num_frames, "tie_word_embeddings": False}
    torch.manual_seed(0)
    config = HMBAConfig(text_config=text_class(**OF_TEXT | sizes, tie_word_embeddings=False), **values)
    model = HMBAForConditionalGeneration(config).float()
    for part in ("vision_tower", "temporal_adapter"):
        getattr(model.model, part).load_state_dict(getattr(tuned.model, part).state_dict())
    torch.nn.init.normal_(model.model.multi_modal_projector.weight, std=scale)
    model.save_pretrained(folder)
    AutoProcessor.from_pretrained(TUNED).save_pretrained(folder)


def save_videos(folder: Path) -> list[str]:
    """Write four short drives."""
    world = MicroWorld(MicroWorldConfig(num_frames=5), "test", 4)
    paths = []
    for number in range(4):
        path = folder / f"drive_{number}.mp4"
        write_video(path, world[number].frames)
        paths.append(str(path))
    return paths


def sixteen_requests(videos: list[str]) -> list[Request]:
    """Return questions without a video, with one and with two, at several moments."""
    first, second, third, fourth = videos
    requests = []
    for number in range(4):
        text = f"{SYSTEM}Question {number}: which object is at risk?"
        requests.append(Request(text))
        requests.append(Request(text, (videos[number],), 0.5 + number / 2))
        requests.append(Request(text, (videos[number], first), 1.0))
        requests.append(Request(text, (second, second), (0.5, 2.0 - number / 4)))
    return requests


def pipeline_answers(folder: Path, requests: list[Request]) -> list[list[int]]:
    """Return the tokens of the pipeline's greedy answers, one request after the other.

    Raises:
        AssertionError: if two tokens were so near that rounding could choose between them.
    """
    pipe = pipeline("video-text-to-text", model=str(folder), processor=AutoProcessor.from_pretrained(folder))
    how = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False}
    answers = []
    for request in requests:
        sampling = {"time_format": request.time_format} if request.time_format else {}
        inputs = pipe.preprocess(request.for_pipeline(), **sampling)["inputs"]
        inputs.pop("frame_size")
        got = pipe.model.generate(**inputs, **how, return_dict_in_generate=True, output_scores=True)
        best = torch.stack(got.scores).topk(2, dim=-1).values
        assert (best[..., 0] - best[..., 1]).min() > MARGIN, request
        answers.append(got.sequences[0, -LENGTH:].tolist())
    return answers
