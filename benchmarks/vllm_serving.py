"""How many requests a second does vLLM answer with H-MBA, beside the pipeline in batches of eight?

    make test-vllm                                                          # makes the environment
    .cache/vllm/bin/python benchmarks/vllm_serving.py --output_dir runs/vllm

Both answer the same requests in this process: a system prompt that all share, of so many tokens as the table says, a
clip of their own, and greedy answers of one length. The two take turns, and times are of the processor, of all threads
of the process, since other work of a machine moves those of a clock. vLLM forgets prompts, clips and what its encoder
made of them before each turn, and keeps those of the turn, the system prompt among them.

The tower and the adapter are those of the demo's tuned model, the language model is random: tiny, unless
`--hidden_size` and `--layers` say otherwise. A tiny one takes less time than what vLLM does around it.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

for _name, _value in {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
}.items():
    os.environ.setdefault(_name, _value)

from measuring import hardware, in_turns, markdown, ratio, save  # noqa: E402
from transformers import AutoProcessor, pipeline  # noqa: E402

from hmba_hf.data.clips import write_video  # noqa: E402
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig  # noqa: E402

try:
    from vllm import LLM, SamplingParams
except ImportError:
    LLM = None

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "vllm_engine"))
from tiny_engines import save_model  # noqa: E402

BATCH = 8
CLOCKS = {"processor": time.process_time, "wall": time.perf_counter}
SYSTEM = "You watch the road in front of the car. Say in few words what is at risk, where it is and why. "
QUESTION = "<video>What is at risk?"


def sizes_of(hidden_size: int, layers: int) -> dict[str, int]:
    """Return the sizes of a language model of this width and depth."""
    heads = hidden_size // 32
    return {
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 3 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
    }


def write_videos(folder: Path, count: int) -> list[str]:
    """Write so many short drives."""
    world = MicroWorld(MicroWorldConfig(num_frames=5), "test", count)
    paths = []
    for number in range(count):
        path = folder / f"drive_{number}.mp4"
        write_video(path, world[number].frames)
        paths.append(str(path))
    return paths


def system_prompt(folder: Path, tokens: int) -> tuple[str, int]:
    """Repeat the instruction until it has so many tokens or more; return it and how many it has."""
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    text = SYSTEM
    while len(tokenizer.tokenize(text)) < tokens:
        text += SYSTEM
    return text, len(tokenizer.tokenize(text))


def by_pipeline(folder: Path, videos: list[str], question: str) -> Callable[[int], list[str]]:
    """Return what answers all requests by the pipeline, in so many tokens each."""
    pipe = pipeline("video-text-to-text", model=str(folder), processor=AutoProcessor.from_pretrained(folder))
    clips = [[video] for video in videos]
    texts = [question] * len(videos)

    def answer(length: int) -> list[str]:
        how = {"max_new_tokens": length, "min_new_tokens": length, "do_sample": False}
        return [one[0]["generated_text"] for one in pipe(clips, texts, batch_size=BATCH, **how)]

    return answer


def by_vllm(folder: Path, videos: list[str], question: str) -> Callable[[int], list[str]]:
    """Return what answers all requests by vLLM, in so many tokens each."""
    llm: Any = LLM(
        str(folder),
        enforce_eager=True,
        dtype="float32",
        max_model_len=2048,
        max_num_seqs=64,
        block_size=32,
        enable_prefix_caching=True,
    )
    tokenizer = llm.get_tokenizer()
    prompt = f"USER: {question} ASSISTANT:"
    asked = [{"prompt": prompt, "multi_modal_data": {"video": video}} for video in videos]

    def answer(length: int) -> list[str]:
        llm.reset_prefix_cache()
        llm.reset_mm_cache()
        llm.llm_engine.reset_encoder_cache()
        greedy = SamplingParams(temperature=0, max_tokens=length, min_tokens=length)
        tokens = [got.outputs[0].token_ids for got in llm.generate(asked, greedy, use_tqdm=False)]
        return [tokenizer.decode(one, skip_special_tokens=True).strip() for one in tokens]  # as the pipeline does

    return answer


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", help="folder for the times")
    parser.add_argument("--requests", type=int, default=64, help="of one turn")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 128], help="of answers, in tokens")
    parser.add_argument("--system_tokens", type=int, default=128, help="of the shared system prompt, at least")
    parser.add_argument("--hidden_size", type=int, default=128, help="of the language model, a multiple of 64")
    parser.add_argument("--layers", type=int, default=3, help="of the language model")
    parser.add_argument("--turns", type=int, default=3, help="of each")
    parser.add_argument("--clock", choices=CLOCKS, default="processor", help="`wall` where nothing else runs")
    options = parser.parse_args()
    if LLM is None:
        raise ImportError("this benchmark needs `pip install vllm`")
    rows = []
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        save_model("llama", folder / "model", **sizes_of(options.hidden_size, options.layers))
        videos = write_videos(folder, options.requests)
        system, system_tokens = system_prompt(folder / "model", options.system_tokens)
        question = system + QUESTION
        ways = {
            "pipeline": by_pipeline(folder / "model", videos, question),
            "vllm": by_vllm(folder / "model", videos, question),
        }
        for length in options.lengths:
            answers = {name: answer(length) for name, answer in ways.items()}
            runs = {name: partial(answer, length) for name, answer in ways.items()}
            times = in_turns(runs, options.turns, clock=CLOCKS[options.clock])
            rates = {name: options.requests / statistics.median(taken) for name, taken in times.items()}
            equal = sum(a == b for a, b in zip(*answers.values(), strict=True))
            rows.append(
                {
                    "tokens of the system prompt": system_tokens,
                    "tokens of an answer": length,
                    "pipeline": f"{rates['pipeline']:.1f} requests a second",
                    "vLLM": f"{rates['vllm']:.1f}",
                    "ratio": f"{ratio(times['pipeline'], times['vllm']):.2f}",
                    "equal answers": f"{equal} of {options.requests}",
                }
            )
            results[length] = {"times": times, "equal": equal}
    package = "vllm-cpu" if "vllm-cpu" in packages_distributions().get("vllm", ()) else "vllm"
    print(f"{hardware()}, {package} {version(package)}\n\n{markdown(rows)}")
    save(options.output_dir, results, {})


if __name__ == "__main__":
    main()
