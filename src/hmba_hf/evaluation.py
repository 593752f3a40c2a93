"""What a model answers about samples, and how well its boxes meet the true ones."""

from collections.abc import Iterator, Sequence
from typing import Any

from tqdm.auto import tqdm

from .data.collator import to_conversation
from .data.micro_world import MicroWorld
from .data.samples import Box, Sample
from .metrics.grounding import GroundingScores, mean_iou, picked_object


def answer_samples(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> list[str]:
    """Generate an answer for each sample; arguments as in `stream_answers`."""
    return [answer for _, answer in stream_answers(model, processor, samples, batch_size, **generate_kwargs)]


def stream_answers(
    model: Any, processor: Any, samples: Sequence[Sample], batch_size: int = 32, **generate_kwargs: Any
) -> Iterator[tuple[Sample, str]]:
    """Yield each sample with its generated answer, greedy unless `generate_kwargs` say otherwise.

    Args:
        model: an `HMBAForConditionalGeneration`; it is left in the mode, training or not, that it was in.
        processor: its `HMBAProcessor`.
        samples: each is read once, and its answer not used.
        batch_size: samples that are answered at once, padded on the left.
        generate_kwargs: of `generate`, over `max_new_tokens=128`.

    Raises:
        ValueError: if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    was_training = model.training
    model.eval()
    options = {"max_new_tokens": 128, "do_sample": False, **generate_kwargs}
    try:
        for start in tqdm(range(0, len(samples), batch_size), desc="answering", disable=None):
            batch = [samples[index] for index in range(start, min(start + batch_size, len(samples)))]
            inputs = encode_questions(batch, processor).to(model.device)
            generated = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
            answers = processor.batch_decode(generated, skip_special_tokens=True)
            yield from zip(batch, (answer.strip() for answer in answers), strict=True)
    finally:
        model.train(was_training)


def encode_questions(samples: Sequence[Sample], processor: Any) -> Any:
    """Turn questions and videos into the inputs of `generate`, padded on the left."""
    options: dict[str, Any] = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    if any(sample.timestamp is not None for sample in samples):
        options["timestamp"] = [sample.timestamp for sample in samples]
    return processor.apply_chat_template(
        [to_conversation(sample, processor, with_answer=False) for sample in samples],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        processor_kwargs=options,
    )


def answer_box(answer: str, processor: Any, size: tuple[int, int]) -> Box | None:
    """Return the last box of an answer as fractions of the original frame, or `None` if there is none to read.

    Args:
        answer: generated text.
        processor: reads the box.
        size: height and width of the original frame.
    """
    objects = processor.post_process_boxes(answer, size=size)
    if not objects:
        return None
    (height, width), box = size, objects[-1]["box"]
    return box["xmin"] / width, box["ymin"] / height, box["xmax"] / width, box["ymax"] / height


def score_grounding(answers: Sequence[str], samples: Sequence[Sample], processor: Any) -> GroundingScores:
    """Score the last box of each answer against the last box of its sample; samples without a box are left out.

    Raises:
        ValueError: if no sample has a box, or if one that has does not tell the `size` of its frames.
    """
    predictions, targets = [], []
    for answer, sample in zip(answers, samples, strict=True):
        if not sample.boxes:
            continue
        if sample.size is None:
            raise ValueError(f"sample {sample.id}: scoring its box needs size=(height, width) of the original frame")
        predictions.append(answer_box(answer, processor, sample.size))
        targets.append(sample.boxes[-1])
    if not targets:
        raise ValueError("grounding is scored on samples with boxes, got none")
    return mean_iou(predictions, targets)


def share_picked(answers: Sequence[str], world: MicroWorld, processor: Any) -> float:
    """Share of answers about the first clips of a world whose box overlaps the risk more than any other road user.

    Guessing among the road users gets `1 / num_objects`.
    """
    size = (world.config.frame_size, world.config.frame_size)
    scenes = [world.scene(index) for index in range(len(answers))]
    picked = [
        picked_object(answer_box(answer, processor, size), scene.boxes) == scene.risk
        for answer, scene in zip(answers, scenes, strict=True)
    ]
    return sum(picked) / len(picked)
