"""Measure the memory that a conversion takes at its peak, against the largest file that it reads.

    python benchmarks/conversion_memory.py
    python benchmarks/conversion_memory.py --mib 2048 --shards 4 --forms safetensors --output_dir benchmarks/results

Random weights in Shikra's layout are written for each form: float16 safetensors, a sharded pickle, or a delta beside
its base, which is as large. Each is converted in a process of its own, whose resident memory Linux tells: all of it at
its peak, the interpreter, torch and the mapped parts of files included. Then every tensor of the result is compared
with what it was made of, and shown is only what was right.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import MIB, hardware, markdown, save
from tokenizers import Tokenizer, models
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from hmba_hf.conversion.checkpoint_folders import write_shards
from hmba_hf.conversion.rename_keys import TOWER, TensorSpec, plan_originals, shikra_rules
from hmba_hf.conversion.tensor_files import FileTensors
from hmba_hf.conversion.tensor_sources import OriginalTensors, RecoveredTensors, SelectedTensors, Tensors

FORMS = ("safetensors", "bin", "delta")
TOKENS = ("<im_patch>", "<im_start>", "<im_end>")
WORDS, WIDTH, CLIP_WIDTH = 4000, 1024, 64
LIMIT = 1.2  # of the largest file


class RandomLlama:
    """Weights of a Llama of about a given size, drawn when they are read; with a projector it is a Shikra."""

    def __init__(self, size: int, rows: int, has_projector: bool):
        h, wide = WIDTH, 4 * WIDTH
        layer = {f"self_attn.{name}_proj": (h, h) for name in "qkvo"}
        layer |= {"mlp.gate_proj": (wide, h), "mlp.up_proj": (wide, h), "mlp.down_proj": (h, wide)}
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, h)}
        self.layers = max(1, (size - 4 * rows * h) // (2 * (4 * h * h + 3 * h * wide)))
        for i in range(self.layers):
            shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
            shapes |= {f"model.layers.{i}.{name}_layernorm.weight": (h,) for name in ("input", "post_attention")}
        shapes |= {"model.norm.weight": (h,), "lm_head.weight": (rows, h)}
        if has_projector:
            shapes |= {"model.mm_projector.weight": (h, CLIP_WIDTH), "model.mm_projector.bias": (h,)}
        self.specs = {name: TensorSpec(shape, torch.float16) for name, shape in shapes.items()}

    def read(self, name: str) -> torch.Tensor:
        """Draw a tensor, the same each time."""
        seed = list(self.specs).index(name)
        return (0.02 * torch.randn(self.specs[name].shape, generator=torch.Generator().manual_seed(seed))).half()


class RandomDelta:
    """What is left of a Shikra, which differs by a hundredth from a Llama of fewer rows, without that Llama."""

    def __init__(self, whole: Tensors, base: Tensors):
        self.whole, self.base, self.specs = whole, base, whole.specs

    def read(self, name: str) -> torch.Tensor:
        """Make a tensor, the same each time."""
        delta = self.whole.read(name)
        if name in self.base.specs:
            base = self.base.read(name)
            delta[: len(base)] = (base.float() + delta[: len(base)].float() / 100).half() - base
        return delta


def write_source(folder: Path, form: str, size: int, shards: int) -> list[str]:
    """Write a checkpoint in one form; return the words of its conversion."""
    whole = RandomLlama(size, WORDS + len(TOKENS), True)
    clip = CLIPVisionModel(CLIPVisionConfig(hidden_size=CLIP_WIDTH, num_hidden_layers=2, num_attention_heads=4))
    clip.save_pretrained(folder / "clip")
    (folder / "clip" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    source = folder / "source"
    source.mkdir()
    shard = int(
        1.02 * sum(spec.nbytes for spec in whole.specs.values()) / shards
    )  # what is cut off fits into the last
    words = ["--checkpoint", str(source), "--vision", str(folder / "clip"), "--output_dir", str(folder / "ours")]
    if form == "delta":
        base = RandomLlama(size, WORDS, False)
        base.specs = {name: base.specs[name] for name in base.specs if name in whole.specs}
        (folder / "base").mkdir()
        write_shards(folder / "base", base, shard)
        write_shards(source, RandomDelta(whole, base), shard)
        words += ["--base", str(folder / "base")]
    else:
        write_shards(source, whole, shard)
    if form == "bin":
        as_pickles(source)
    settings = {"model_type": "shikra", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH}
    settings |= {"num_hidden_layers": whole.layers, "num_attention_heads": 8}
    (source / "config.json").write_text(json.dumps(settings))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{i}": i for i in range(3, WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(source)
    return words


def as_pickles(folder: Path) -> None:
    """Write every safetensors file of a folder as a pickle instead."""
    for path in sorted(folder.glob("*.safetensors")):
        file = FileTensors(path)
        torch.save({name: file.read(name) for name in file.specs}, folder / f"pytorch_{path.stem}.bin")
        path.unlink()
    for index in folder.glob("*.index.json"):
        content = json.loads(index.read_text())
        files = {name: f"pytorch_{Path(file).stem}.bin" for name, file in content["weight_map"].items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({**content, "weight_map": files}))
        index.unlink()


# What a fresh process runs: the converter and nothing else. It prints the bytes held before and at the peak.
CHILD = """
import sys
from pathlib import Path
from hmba_hf.conversion import convert_hmba

def held(field):
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(field + ":") + 1]) * 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = held("VmRSS")
convert_hmba.main()
print(before, held("VmHWM"))
"""


def convert(words: list[str]) -> tuple[int, int]:
    """Run the converter in a process of its own; return the bytes that it held before and at its peak.

    Raises:
        RuntimeError: if it fails, as it does where the system does not tell.
    """
    done = subprocess.run([sys.executable, "-c", CHILD, *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"a conversion is wanted (on Linux, whose /proc tells of memory), got {done.stderr}")
    before, peak = done.stdout.split()[-2:]
    return int(before), int(peak)


def check(folder: Path, form: str) -> int:
    """Compare the result with what it was made of, tensor by tensor; return how many there are.

    Raises:
        AssertionError: if one differs.
    """
    source: Any = FileTensors(folder / "source")
    if form == "delta":
        source = RecoveredTensors(source, FileTensors(folder / "base"))
    ours = FileTensors(folder / "ours")
    names = [name for name in ours.specs if not name.startswith((TOWER, "model.temporal_adapter."))]
    back = OriginalTensors(SelectedTensors(ours, names), plan_originals(names, shikra_rules()))
    assert back.specs.keys() == source.specs.keys()
    for name in back.specs:
        assert torch.equal(back.read(name), source.read(name)), name
    return len(back.specs)


def measure(form: str, size: int, shards: int, folder: str | None) -> dict[str, Any]:
    """Write, convert and check one checkpoint; return what was measured."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        words = write_source(Path(place), form, size, shards)
        files = [
            path.stat().st_size for path in Path(place, "source").iterdir() if path.suffix in (".safetensors", ".bin")
        ]
        start = time.perf_counter()
        before, peak = convert(words)
        seconds = time.perf_counter() - start
        tensors = check(Path(place), form)
    sizes = {"total": sum(files), "largest": max(files), "before": before, "peak": peak, "seconds": seconds}
    return {"form": form, "files": len(files), "tensors": tensors, **sizes}


def row(record: dict[str, Any]) -> dict[str, str]:
    """Write a record as a row of a table."""
    peak, largest = record["peak"], record["largest"]
    return {
        "form": record["form"],
        "files": str(record["files"]),
        "size": f"{record['total'] / MIB:.0f} MiB",
        "largest file": f"{largest / MIB:.0f} MiB",
        "before": f"{record['before'] / MIB:.0f} MiB",
        "peak": f"{peak / MIB:.0f} MiB",
        "peak / largest file": f"{peak / largest:.2f}",
        "rise / largest file": f"{(peak - record['before']) / largest:.2f}",
        "time": f"{record['seconds']:.0f} s",
    }


def main() -> None:
    """Measure each form, print the table, say whether the limit holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="size of a checkpoint")
    parser.add_argument("--shards", type=int, nargs="+", default=[2], help="files that it lies in")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--scratch", default=None, help="where there is room for three times that; /tmp when absent")
    parser.add_argument("--output_dir", default=None, help="for the records as JSON")
    args = parser.parse_args()

    print(hardware())
    print("random weights, all tensors of each result compared with what they were made of\n")
    records = []
    for shards in args.shards:
        for form in args.forms:
            records.append(measure(form, args.mib * MIB, shards, args.scratch))
            print(", ".join(f"{name} {value}" for name, value in row(records[-1]).items()), flush=True)
    print()
    print(markdown([row(record) for record in records]))
    worst = max(record["peak"] / record["largest"] for record in records)
    holds = "stays below" if worst < LIMIT else "is above"
    print(f"\nthe peak of the whole process {holds} {LIMIT} times the largest file: {worst:.2f}")
    save(args.output_dir, {"hardware": hardware(), "records": records}, {})


if __name__ == "__main__":
    main()
