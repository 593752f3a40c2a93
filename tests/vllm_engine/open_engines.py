"""vLLM's engines with tiny models, and their greedy answers."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tiny_engines import LENGTH
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

GREEDY = SamplingParams(temperature=0, max_tokens=LENGTH, min_tokens=LENGTH)


@contextmanager
def open_engine(folder: Path, **options: Any) -> Iterator[Any]:
    """Start an engine with a model, small and exact, and end it."""
    settings = {
        "enforce_eager": True,
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 16,
        "block_size": 32,
        "enable_prefix_caching": True,
    }
    llm = LLM(str(folder), **settings | options)
    yield llm
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()


def answers(llm: Any, asked: list[dict[str, Any]], updates: Any = None) -> list[list[int]]:
    """Return the tokens of an engine's greedy answers.

    Args:
        llm: the engine.
        asked: prompts.
        updates: low-rank ones for each prompt.
    """
    done = llm.generate(asked, GREEDY, use_tqdm=False, lora_request=updates)
    return [list(got.outputs[0].token_ids) for got in done]
