"""The pipeline `video-text-to-text`: videos and questions in, answers and boxes in pixels out."""

import inspect
import os
from types import GeneratorType
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GenerationConfig, Pipeline
from transformers.utils import logging
from transformers.utils.chat_template_utils import Chat, is_valid_message
from transformers.video_utils import is_valid_video_frame

from .loading_options import OPTIONS_OF_PUSHES, pushing_options
from .loading_transformers import generation_options

logger = logging.get_logger(__name__)
# Options of a call about its inputs; all others are for `generate`.
_PREPROCESS_OPTIONS = (
    "timestamp",
    "num_frames",
    "fps",
    "source_fps",
    "only_whole",
    "limits",
    "video_metadata",
    "time_format",
    "ask_for_boxes",
    "processor_kwargs",
)


def _is_one_video(videos: Any) -> bool:
    if isinstance(videos, (list, tuple)):
        return bool(videos) and all(is_valid_video_frame(frame) for frame in videos)
    return getattr(videos, "ndim", 4) < 5


def _is_one_text(text: Any) -> bool:
    return not isinstance(text, (list, tuple)) or (bool(text) and is_valid_message(text[0]))


def _has_text(inputs: Any) -> bool:
    """Return whether inputs are a chat, a dict with a text, or a collection of these, not a bare video."""
    while isinstance(inputs, (list, tuple)) and inputs:
        inputs = inputs[0]
    return isinstance(inputs, (dict, Dataset, GeneratorType))


def _pair_inputs(videos: Any, text: Any, timestamp: Any) -> dict | list[dict]:
    """Return one dict per input; a single video, text or timestamp is in every dict."""
    once = {"videos": videos, "text": text, "timestamp": timestamp}
    lists: dict[str, Any] = {}
    if not _is_one_video(videos):
        lists["videos"] = once.pop("videos")
        if any(video is None for video in lists["videos"]):  # its question would be answered without any
            raise ValueError("videos must be a video for each input, got None among them")
    if not _is_one_text(text):
        lists["text"] = once.pop("text")
    if isinstance(timestamp, (list, tuple)):
        lists["timestamp"] = once.pop("timestamp")
    if not lists:
        return once
    counts = {name: len(column) for name, column in lists.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ValueError(f"videos, texts and timestamps must be as many, at least one, or one for all, got {counts}")
    pairs = []
    for row in zip(*lists.values(), strict=True):
        pairs.append({**once, **dict(zip(lists, row, strict=True))})
    return pairs


def warn_of_other_length(model: Any, processor: Any) -> None:
    """Warn once where a processor reads clips of another length than the one that the model is trained on.

    Args:
        model, processor: with a `num_frames` each, in the configuration and in the video processor.
    """
    trained = model.config.num_frames
    read = processor.video_processor.num_frames
    if read != trained:
        logger.warning_once(
            f"num_frames of the processor should be {trained}, as in the model's configuration, got {read}: the model "
            f"is trained on clips of {trained} frames"
        )


class VideoTextToTextPipeline(Pipeline):
    """Answer questions about videos, and find the boxes in the answers.

        pipe = pipeline("video-text-to-text", model="org/hmba-drama")
        pipe(videos="dashcam.mp4", text="Which object is at the highest risk?", timestamp=12.4)
        # [{"generated_text": "A white van[0.412,0.377,0.598,0.611] is cutting in",
        #   "objects": [{"label": "A white van", "box": {"xmin": ..., "ymin": ..., "xmax": ..., "ymax": ...}}]}]

    It generates 256 new tokens unless the model's generation config or the caller sets another number. A model in a
    folder needs the name of the task: without it, `pipeline` looks for the model on the Hub.

    Names with an underscore are those of transformers, which has no public way to set or extend them.
    """

    model: Any
    processor: Any
    _load_processor: Any = True
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=256)

    def __init__(self, model: Any, *args: Any, **kwargs: Any):
        arguments = inspect.signature(Pipeline.__init__).bind(self, model, *args, **kwargs).arguments
        parts = ("tokenizer", "feature_extractor", "image_processor", "video_processor")
        if given := [name for name in parts if arguments.get(name) is not None]:
            raise ValueError(f"the parts of a processor must be given within it, got {given}")
        if arguments.get("binary_output"):
            raise ValueError("binary_output must be false, since answers are text and never pickles, got True")
        places = getattr(model, "hf_device_map", None)
        if places:  # the base class moves inputs to the first place, which must not be a disk
            model.hf_device_map = dict(sorted(places.items(), key=lambda place: place[1] == "disk"))
        super().__init__(model, *args, **kwargs)

    @classmethod
    def in_place(cls, model: Any, processor: Any) -> "VideoTextToTextPipeline":
        """Return the pipeline of a model that stays on its devices; the constructor moves it to a GPU."""
        device = None if getattr(model, "hf_device_map", None) else model.device
        return cls(model=model, processor=processor, device=device)

    def __call__(  # type: ignore[override]  # videos and texts by name
        self, videos: Any = None, text: Any = None, timestamp: Any = None, **kwargs: Any
    ) -> Any:
        """Answer one input or many.

        Args:
            videos: a path, URL, bytes, file, array, list of frames or picture for one input; a list of these for as
                many inputs; a list of lists for several videos in each input.
            text: a question, a chat with its videos in the content blocks, or a list of these. A single question is
                asked about every video. A question may place its videos by video tokens.
            timestamp: the current moment in seconds, one for all inputs or a list with one per input.
            kwargs: `num_frames` and `fps` for sampling, `source_fps` of videos without timestamps, `only_whole` to
                refuse mended frames, `limits` of files (`SourceLimits`), `video_metadata` with the `fps` or
                `timestamps` of frames without a file, `time_format` in place of the processor's, `ask_for_boxes` for
                the words by which a vision-language model answers with boxes, `processor_kwargs`, `batch_size`,
                `num_workers`. All others, such as `max_new_tokens`, or those in `generate_kwargs`, are options of
                `generate`.

        Chats, dicts with the keys above, and generators and datasets of these may also be given alone.

        Returns:
            For each input a list, as long as `num_return_sequences`, of `{"generated_text": str, "objects": [{"label",
            "box"}]}`; boxes are in pixels of the input's last video. The list itself for a single input.
        """
        options = {**self._preprocess_params, **kwargs}
        of_processor = options.get("processor_kwargs") or {}
        if options.get("num_frames") is None and of_processor.get("num_frames") is None:
            warn_of_other_length(self.model, self.processor)
        if text is None:
            if not _has_text(videos):
                raise ValueError("videos must have a text, or be in a chat, got neither")
            text = videos
            videos = None
        if videos is None and not isinstance(timestamp, (list, tuple)) and text not in ([], ()):
            return super().__call__(text, timestamp=timestamp, **kwargs)
        return super().__call__(_pair_inputs(videos, text, timestamp), **kwargs)

    def _sanitize_parameters(
        self, generate_kwargs: dict | None = None, **parameters: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess_params = {}
        for name in _PREPROCESS_OPTIONS:
            is_given = name in parameters
            value = parameters.pop(name, None)
            # No `time_format` is a choice: no times, in place of the processor's.
            if value is not None or (name == "time_format" and is_given):
                preprocess_params[name] = value
        twice = parameters.keys() & (generate_kwargs or {}).keys()
        if twice:
            raise ValueError(f"generation parameters must be given once, got {sorted(twice)} also in generate_kwargs")
        generation = {**(generate_kwargs or {}), **parameters}
        forward_params = {"generate_kwargs": generation} if generation else {}
        return preprocess_params, forward_params, {}

    def preprocess(self, input_: Any, processor_kwargs: dict | None = None, **sampling: Any) -> dict[str, Any]:
        """Turn one input into model inputs of batch size one."""
        ask_for_boxes = sampling.pop("ask_for_boxes", False)
        if isinstance(input_, dict) and input_.get("timestamp") is not None:
            sampling["timestamp"] = input_["timestamp"]
        messages = self._as_messages(input_, ask_for_boxes)
        is_prefill = messages[-1]["role"] == "assistant"
        model_inputs = self.processor.apply_chat_template(
            messages,
            add_generation_prompt=not is_prefill,
            continue_final_message=is_prefill,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={**sampling, **(processor_kwargs or {}), "return_metadata": True},
        ).to(dtype=self.dtype)
        metadata = model_inputs.pop("video_metadata", None)
        size = (0, 0)
        if metadata:
            size = (metadata[-1].height, metadata[-1].width)
        # With one entry, the base class collects a batch in a list, and the processor joins it.
        return {"inputs": {**model_inputs, "frame_size": torch.tensor([size])}}

    def _as_messages(self, input_: Any, ask_for_boxes: bool) -> Any:
        """Return the chat of one input: a plain question is a user turn, its videos first unless it places them."""
        is_chat = isinstance(input_, Chat) or (isinstance(input_, dict) and not isinstance(input_.get("text"), str))
        if is_chat and ask_for_boxes:
            raise ValueError("ask_for_boxes must be for plain questions, got a chat: the processor has ask_for_boxes")
        if isinstance(input_, Chat):
            return input_.messages
        if isinstance(input_, str):
            input_ = {"text": input_}
        if not isinstance(input_, dict) or not {"text"} <= input_.keys() <= {"text", "videos", "timestamp"}:
            got: Any = type(input_).__name__
            if isinstance(input_, dict):
                got = sorted(input_)
            raise ValueError(f"an input must be a question, a chat or a dict of text, videos and timestamp, got {got}")
        text = input_["text"]
        videos = input_.get("videos")
        if not isinstance(text, str):
            if videos is not None:
                raise ValueError("videos of a chat must be in its content blocks, got a chat and videos")
            return text
        if videos is None:
            clips = []
        elif _is_one_video(videos):
            clips = [videos]
        else:
            clips = list(videos)
        if ask_for_boxes:
            text = self.processor.ask_for_boxes(text)
        if videos is not None and not clips:
            raise ValueError("videos must be a video or a list of videos, got an empty list")
        token = self.processor.video_token
        if token not in text:
            text = token * len(clips) + text
        first, *others = text.split(token)
        if len(others) != len(clips):
            raise ValueError(
                f"the text must hold one {token} token for each video, got {len(others)} tokens and {len(clips)} "
                "videos"
            )
        content = [{"type": "text", "text": first}]
        for video, part in zip(clips, others, strict=True):
            content += [{"type": "video", "video": video}, {"type": "text", "text": part}]
        return [{"role": "user", "content": content}]

    def _forward(self, model_inputs: Any, generate_kwargs: Any = None) -> Any:  # type: ignore[override]  # has one option
        batch = model_inputs["inputs"]
        if not isinstance(batch, list):
            batch = [batch]
        frame_size = torch.cat([inputs.pop("frame_size") for inputs in batch])
        inputs = batch[0]
        if len(batch) > 1:
            inputs = self.processor.join(batch)
        generate_kwargs = generation_options(self, generate_kwargs or {}, return_dict_in_generate=False)
        if "stop_strings" in generate_kwargs:
            generate_kwargs.setdefault("tokenizer", self.processor.tokenizer)
        sequences = self.model.generate(**inputs, **generate_kwargs)
        answers = sequences[:, inputs["input_ids"].shape[1] :]
        return {"answers": answers.unflatten(0, (len(batch), -1)), "frame_size": frame_size}

    def postprocess(self, model_outputs: Any) -> list[dict[str, Any]]:  # type: ignore[override]  # has no options
        """Decode the answers of one input and find their boxes."""
        height, width = model_outputs["frame_size"][0].tolist()
        texts = self.processor.batch_decode(model_outputs["answers"][0], skip_special_tokens=True)
        answers = []
        for text in texts:
            objects = []
            if height and not self._writes_unknown_boxes():
                objects = self.processor.post_process_boxes(text, (height, width))
            answers.append({"generated_text": text.strip(), "objects": objects})
        return answers

    def _writes_unknown_boxes(self) -> bool:
        """Return whether answers may hold boxes that nothing reads, and warn of it once."""
        if getattr(self.processor, "boxes_dialect", "unit_square") is not None:
            return False
        logger.warning_once(
            "no boxes of answers are read: boxes_dialect of the processor must be named for this base, got None"
        )
        return True

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the model, the processor and their code to a folder.

        Args:
            push_to_hub: whether to upload both, too.
            kwargs: of the model's `save_pretrained`, such as `max_shard_size`; with `push_to_hub=True`, also the
                arguments of the method of that name. `repo_id` is the name of the folder when absent.
        """
        of_push = {}
        if push_to_hub:
            of_push = {name: kwargs.pop(name) for name in OPTIONS_OF_PUSHES if name in kwargs}
            if "max_shard_size" in kwargs:
                of_push["max_shard_size"] = kwargs["max_shard_size"]
        of_push = pushing_options(self, save_directory, push_to_hub, of_push)
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            self.push_to_hub(**of_push)


__all__ = ["VideoTextToTextPipeline", "warn_of_other_length"]
