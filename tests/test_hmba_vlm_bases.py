"""H-MBA on every proven base: with a closed gate it answers as the base alone, to the bit; open, it sees the past."""

import pytest
import torch
import transformers
from packaging.version import Version

from hmba_hf import HMBAVLMForConditionalGeneration, HMBAVLMProcessor
from tiny_models import open_adapter
from tiny_vlm_bases import BASES, tiny_vlm

WAYS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True},
    "beam": {"do_sample": False, "num_beams": 2},
    "chunked prefill": {"do_sample": False, "prefill_chunk_size": 7},
}
# What a base cannot do by itself, with the error of transformers, its first version that raises it, and the reason.
BASE_CANNOT = {
    ("granite4_vision", "chunked prefill"): (KeyError, "5.23", "transformers cuts its pooler_output, which it lacks"),
}
# Options of image processors with which a picture is several crops, each encoded by itself.
IN_CROPS = {
    "idefics3": {"do_image_splitting": True, "size": {"longest_edge": 64}},
    "internvl": {"max_patches": 4},
    "smolvlm": {"do_image_splitting": True, "size": {"longest_edge": 64}},
}
# The reverse scan over time begins at the current frame, where nothing has decayed yet.
WITHOUT_EFFECT = {"context.mixers.temporal.reverse_mixer.A_log", "context.mixers.divided_time.reverse_mixer.A_log"}
CASES = sorted(BASES)
CASES += [f"{name} in crops" for name in sorted(IN_CROPS)]


@pytest.fixture(scope="module", params=CASES)
def vlm(request):
    name, _, crops = request.param.partition(" ")
    vlm = tiny_vlm(name)
    if crops:
        for option, value in IN_CROPS[name].items():
            setattr(vlm.processor.image_processor, option, value)
    return vlm


@pytest.fixture(scope="module")
def model(vlm, tmp_path_factory):
    """The base with a fresh adapter; a test that opens it closes it again."""
    folder = tmp_path_factory.mktemp(vlm.name)
    vlm.model.save_pretrained(folder)
    return HMBAVLMForConditionalGeneration.from_base_pretrained(str(folder))


@pytest.fixture
def opened(model):
    adapter = model.model.temporal_adapter
    closed = {name: value.clone() for name, value in adapter.state_dict().items()}
    open_adapter(adapter)
    yield model
    adapter.load_state_dict(closed)
    model.zero_grad()


def clip_of(vlm, past_shades=(1, 2)):
    """Ask about a clip of two earlier frames and the current one, whose inputs are the base's own."""
    inputs = vlm.inputs()
    past = {f"past_{name}": value for name, value in vlm.pictures(*past_shades).items()}
    tokens = (inputs["input_ids"] == vlm.model.config.image_token_id).sum(dim=1)
    return inputs | past | {"past_lengths": torch.tensor([2]), "picture_tokens": tokens}


def generate(model, inputs, way):
    torch.manual_seed(1)
    return model.generate(**inputs, **WAYS[way], max_new_tokens=5)


@torch.no_grad()
def test_logits_of_a_closed_gate_are_the_bases_own_about_the_current_frame(vlm, model):
    assert torch.equal(model(**clip_of(vlm)).logits, vlm.model(**vlm.inputs()).logits)


@pytest.mark.parametrize("way", WAYS)
def test_answers_of_a_closed_gate_are_the_bases_own_about_the_current_frame(vlm, model, way):
    error, since, _ = BASE_CANNOT.get((vlm.name, way), (None, "0", ""))
    if error and Version(transformers.__version__) >= Version(since):
        with pytest.raises(error):
            generate(vlm.model, vlm.inputs(), way)
        with pytest.raises(error):
            generate(model, clip_of(vlm), way)
        return
    answer = generate(model, clip_of(vlm), way)
    assert torch.equal(answer, generate(vlm.model, vlm.inputs(), way))


@torch.no_grad()
def test_answers_of_an_open_gate_depend_on_earlier_frames(vlm, opened):
    logits = opened(**clip_of(vlm)).logits
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits, opened(**clip_of(vlm, past_shades=(3, 2))).logits)
    assert not torch.equal(logits, vlm.model(**vlm.inputs()).logits)


def test_gradients_reach_the_adapter(vlm, opened):
    inputs = clip_of(vlm)
    opened(**inputs | {"labels": inputs["input_ids"]}).loss.backward()
    idle = set()
    for name, parameter in opened.model.temporal_adapter.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        if not parameter.grad.any():
            idle.add(name)
    assert idle == WITHOUT_EFFECT


@torch.no_grad()
def test_clips_of_unlike_lengths_are_answered_in_a_batch_as_alone(vlm, opened):
    processor = HMBAVLMProcessor(vlm.processor, boxes_dialect="thousand")
    processor.tokenizer.padding_side = "left"
    clips = [[vlm.picture(shade) for shade in shades] for shades in ((0, 1, 2), (3, 4, 5, 6, 7))]
    prompts = []
    for question in ("What?", "What is there now?"):
        blocks = [{"type": "video"}, {"type": "text", "text": question}]
        prompts.append(
            processor.apply_chat_template([{"role": "user", "content": blocks}], add_generation_prompt=True)
        )
    options = {"return_tensors": "pt", "do_sample_frames": False}
    together = opened(**processor(text=prompts, videos=clips, padding=True, **options)).logits
    for row, prompt, clip in zip(together, prompts, clips, strict=True):
        alone = opened(**processor(text=[prompt], videos=[clip], **options)).logits
        torch.testing.assert_close(row[-1], alone[0, -1], rtol=0, atol=2e-5)
