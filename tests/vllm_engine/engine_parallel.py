"""Language models spread over two processes in vLLM's engine."""

import pytest
from open_engines import answers, open_engine
from tiny_engines import pipeline_answers, save_model, save_videos, sixteen_requests


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A model, requests, and what the pipeline answers."""
    folder = tmp_path_factory.mktemp("model")
    save_model("llama", folder)
    requests = sixteen_requests(save_videos(tmp_path_factory.mktemp("videos")))
    return folder, requests, pipeline_answers(folder, requests)


@pytest.mark.parametrize("way", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_processes_answer_as_the_pipeline(asked, way):
    folder, requests, wanted = asked
    with open_engine(folder, **{way: 2}) as llm:
        assert answers(llm, [request.for_engine() for request in requests]) == wanted
