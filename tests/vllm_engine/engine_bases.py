"""H-MBAs on vision-language models in vLLM's engine: answers are those of the pipeline, token for token."""

from pathlib import Path

import pytest
from open_engines import GREEDY, answers, open_engine
from tiny_bases_of_engines import for_engine, save_model_on
from tiny_engines import Request, pipeline_answers, save_videos, sixteen_requests
from transformers import AutoProcessor

BASES = ("llava", "qwen2_5_vl", "internvl")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Paths of four drives."""
    return save_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module", params=BASES)
def served(request, videos, tmp_path_factory):
    """An engine, the model's processor, and what the pipeline answers."""
    folder = tmp_path_factory.mktemp(request.param)
    save_model_on(request.param, folder)
    requests = sixteen_requests(videos)
    wanted = pipeline_answers(folder, requests)
    with open_engine(folder, allowed_local_media_path=str(Path(videos[0]).parent)) as llm:
        yield llm, AutoProcessor.from_pretrained(folder), requests, wanted


def test_prompts_with_no_clip_one_and_two_are_answered_as_by_the_pipeline(served):
    llm, processor, requests, wanted = served
    for request, answer in list(zip(requests, wanted, strict=True))[:4]:
        assert answers(llm, [for_engine(processor, request)]) == [answer], request
    asked = [for_engine(processor, request) for request in requests]
    assert answers(llm, asked) == wanted
    again = llm.generate(asked, GREEDY, use_tqdm=False)
    assert [list(got.outputs[0].token_ids) for got in again] == wanted
    assert all(got.num_cached_tokens for got in again)
    assert len({tuple(answer) for answer in wanted}) > 12, "the answers hardly depend on what is asked"


def test_a_chat_shows_its_videos_as_pictures_of_the_base(served):
    llm, _, requests, wanted = served
    request = requests[1]
    content = [
        {"type": "video_url", "video_url": {"url": Path(request.videos[0]).as_uri()}},
        {"type": "text", "text": request.text},
    ]
    options = {"timestamp": request.timestamp}
    (got,) = llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False, mm_processor_kwargs=options)
    assert list(got.outputs[0].token_ids) == wanted[1]


def test_a_mistake_of_one_request_is_one_clear_error_and_the_engine_lives_on(served, videos):
    llm, processor, requests, wanted = served
    asked = for_engine(processor, Request("what?", (videos[0],)))
    for wrong, message in (
        ({**asked, "multi_modal_data": {"video": [videos[0]] * 2}}, "got 1 tokens and 2 videos"),
        ({**asked, "mm_processor_kwargs": {"timestamp": 99.0}}, "timestamp"),
        ({**asked, "mm_processor_kwargs": {"min_pixels": 3}}, "min_pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            llm.generate(wrong, GREEDY, use_tqdm=False)
        assert not llm.llm_engine.has_unfinished_requests()
    assert answers(llm, [for_engine(processor, requests[1])]) == [wanted[1]]
