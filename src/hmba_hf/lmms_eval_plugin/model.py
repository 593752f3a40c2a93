"""H-MBA as a chat model of lmms-eval."""

import json
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm
from transformers import AutoProcessor

from ..data.video_options import VideoOptions
from ..families import load_model
from ..installation import missing_package
from ..quantisation import quantising_options
from ..tasks.answering.generation import generate_answers
from .documents import set_limits, set_processor

try:
    from lmms_eval.api.model import lmms
except ImportError as missing:
    raise missing_package("the lmms-eval plug-in needs", "lmms-eval") from missing

_GENERATION = ("max_new_tokens", "do_sample", "temperature", "top_p", "num_beams")


class HMBA(lmms):
    """Answer lmms-eval's requests with an H-MBA checkpoint.

    Args:
        pretrained: folder or Hub id.
        batch_size: requests that are answered at once.
        device, device_map, dtype: where and in what precision it runs; the process's own device when absent.
        quantization: of the language model, as in `quantising_options`.
        video_options: rules for files, by the names of `VideoOptions`, such as `source_fps=20` or `only_whole=True`.
            Limits hold for the pictures of our tasks' documents, too.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        device: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        quantization: str | None = None,
        **video_options: Any,
    ):
        super().__init__()
        rules = VideoOptions(**{name: read_option(value) for name, value in video_options.items()}).rules
        self.accelerator = Accelerator()
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        place = device_map or device
        if not device_map and (self._world_size > 1 or device is None):
            place = str(self.accelerator.device)
        fewer_bits = quantising_options(pretrained, quantization)
        self.model = load_model(pretrained, dtype=dtype, device_map=place, **fewer_bits).eval()
        self.processor = AutoProcessor.from_pretrained(pretrained)
        self.processor.video_processor.set_source_rules(**rules)
        set_limits(rules["limits"])
        set_processor(self.processor)
        self.batch_size = int(batch_size)

    @property
    def device(self) -> Any:
        """Where the inputs go."""
        return self.model.device

    def generate_until(self, requests: list[Any]) -> list[str]:
        """Answer each request; those of one batch share their generation options."""
        answers: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[2], sort_keys=True), []).append(number)
        with tqdm(total=len(requests), desc="answering", disable=self.rank != 0) as progress:
            for options, numbers in groups.items():
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    found = self._answer([requests[number] for number in batch], json.loads(options))
                    answers.update(zip(batch, found, strict=True))
                    progress.update(len(batch))
        return [answers[number] for number in range(len(requests))]

    def _answer(self, requests: Sequence[Any], options: dict[str, Any]) -> list[str]:
        conversations = [self._conversation(request) for request in requests]
        inputs = self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "padding_side": "left", "return_tensors": "pt"},
        )
        answers = generate_answers(self.model, self.processor, inputs, options=generation_options(options))
        stops = options.get("until") or ()
        return [cut_at(answer, stops) for answer in answers]

    def _conversation(self, request: Any) -> list[dict[str, Any]]:
        _, doc_to_messages, _, doc_id, task, split = request.args
        conversation = []
        for message in doc_to_messages(self.task_dict[task][split][doc_id]):
            blocks = [to_block(content) for content in message["content"]]
            conversation.append({"role": message["role"], "content": blocks})
        return conversation

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Not offered: no task for H-MBA compares likelihoods."""
        raise NotImplementedError("H-MBA generates answers in lmms-eval; it gives no log-likelihoods")

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not offered: H-MBA is trained on one question and one answer."""
        raise NotImplementedError("H-MBA answers in one round in lmms-eval, not in several")


def read_option(value: Any) -> Any:
    """Read a number or a truth value: lmms-eval hands over what stands on the command line."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower())
    except ValueError:  # whoever takes it says what is wanted
        return value


def to_block(content: dict[str, Any]) -> dict[str, Any]:
    """Turn one content of an lmms-eval message into a block of our chat template."""
    kind = content["type"]
    if kind == "text":
        return {"type": "text", "text": content["text"]}
    if kind not in ("image", "video"):
        raise ValueError(f"expected content of type text, image or video, got {kind!r}")
    return {"type": kind, kind: content["url"]}


def generation_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of a task's options that `generate` takes; a temperature of 0 means greedy search."""
    known = {name: options[name] for name in _GENERATION if options.get(name) is not None}
    known.setdefault("do_sample", known.get("temperature", 0) > 0)
    if not known["do_sample"]:
        known.pop("temperature", None)
        known.pop("top_p", None)
    return {"max_new_tokens": 128, **known}


def cut_at(answer: str, stops: Sequence[str]) -> str:
    """End an answer before the first of the `stops`."""
    ends = [answer.index(stop) for stop in stops if stop and stop in answer]
    return answer[: min(ends, default=len(answer))].strip()
