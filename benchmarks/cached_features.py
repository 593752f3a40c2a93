"""What does an epoch cost with cached frame features, next to one in which the vision tower sees every frame again?

    python benchmarks/cached_features.py [--clips 512] [--large_clips 8] [--threads 2] [--output_dir runs/cached]
    python benchmarks/cached_features.py --quick      # few clips, to see that all is well

Both epochs learn from the same clips of the micro-world, in the same batches, with the same model: the base of the
micro-world with a fresh adapter, and a tower of the size of CLIP ViT-L/14 with random weights and the paper's adapter.
First the loss of every batch must be the same; then the epochs run in turns. What is made once is listed beside them:
the cache, and the check of every clip against it, which a run makes when it starts. These are the micro-world's
clips, drawn anew for each epoch without a cache; real ones would have to be decoded.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import hardware, in_turns, keep_memory, markdown, ratio, save, seconds
from torch.utils.data import DataLoader
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaConfig

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAProcessor, HMBAVideoProcessor
from hmba_hf.data.bad_samples import BadSamples
from hmba_hf.data.encoded_samples import EncodedSamples
from hmba_hf.data.feature_cache.reading import CachedSamples, FeatureCache
from hmba_hf.data.feature_cache.writing import FeatureWriter
from hmba_hf.data.micro_world.world import MicroWorld, MicroWorldConfig
from hmba_hf.tasks.answering.collator import SampleCollator
from hmba_hf.tasks.answering.features import feature_key
from hmba_hf.training import set_trainable

BASE = Path(__file__).parents[1] / "examples" / "micro_base"
TOLERANCE = 1e-5  # float32, of the loss of a batch


def micro() -> tuple[Any, Any]:
    """Return the micro-world's base with a fresh adapter, and its processor."""
    model = AutoModelForImageTextToText.from_pretrained(BASE, adapter="mamba")
    return model, AutoProcessor.from_pretrained(BASE)


def large() -> tuple[Any, Any]:
    """Return a random model with the paper's tower and adapter and a small language model, and its processor."""
    tokenizer = AutoProcessor.from_pretrained(BASE).tokenizer
    text = LlamaConfig(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    video_token_id = tokenizer.convert_tokens_to_ids("<video>")
    model = HMBAForConditionalGeneration(HMBAConfig(text_config=text, video_token_id=video_token_id))
    return model, HMBAProcessor(HMBAVideoProcessor(), tokenizer)


def epoch(model: Any, loader: DataLoader, optimizer: torch.optim.Optimizer) -> None:
    """Learn from every batch once."""
    for batch in loader:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def check(model: Any, loaders: dict[str, DataLoader]) -> float:
    """Raise an `AssertionError` unless every batch has the same loss both ways; return the largest difference."""
    with torch.no_grad():
        losses = [[model(**batch).loss.item() for batch in loader] for loader in loaders.values()]
    differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
    assert max(differences) <= TOLERANCE, f"expected equal losses to {TOLERANCE:g}, got {max(differences):g} apart"
    return max(differences)


def compare(name: str, build: Callable[[], tuple[Any, Any]], clips: int, batch_size: int, repeats: int) -> dict:
    """Cache, check, then time epochs in turns."""
    torch.manual_seed(0)
    model, processor = build()
    model.model.temporal_adapter.gate.data.normal_(std=0.5)  # so that the losses depend on all frames
    set_trainable(model, ["adapter", "projector", "language_model"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    samples, bad = MicroWorld(MicroWorldConfig(), "train", clips), BadSamples("stop")
    key = feature_key(model, processor.video_processor, torch.float32)
    opened: list[CachedSamples] = []
    with tempfile.TemporaryDirectory() as folder:
        encode = torch.no_grad()(model.get_frame_features)
        writer = FeatureWriter(Path(folder), key, encode, processor.video_processor, bad, batch_size)
        once = {"cache": seconds(lambda: writer.write(samples))}
        once["check"] = seconds(lambda: opened.append(CachedSamples(samples, FeatureCache(folder, key))))
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / clips
        collator = SampleCollator(processor)
        loaders = {
            kind: DataLoader(EncodedSamples(source, collator, bad), batch_size, collate_fn=collator)
            for kind, source in (("tower", samples), ("cached", opened[0]))
        }
        error = check(model, loaders)
        runs = {kind: partial(epoch, model, loader, optimizer) for kind, loader in loaders.items()}
        times = in_turns(runs, repeats)
    record = {"model": name, "clips": clips, "batch": batch_size, "error": error, "bytes": size, **once, **times}
    return {**record, "ratio": ratio(times["tower"], times["cached"])}


def row(record: dict[str, Any]) -> dict[str, Any]:
    """Write a record of `compare` as a row; times are for one clip."""

    def each(times: Any) -> str:
        time = 1e3 * (statistics.median(times) if isinstance(times, list) else times) / record["clips"]
        return f"{time:,.0f} ms" if time >= 100 else f"{time:.3g} ms"

    return {
        "model": record["model"],
        "clips": record["clips"],
        "epoch with the tower": each(record["tower"]),
        "epoch on cached features": each(record["cached"]),
        "ratio": f"{record['ratio']:.2f}",
        "losses differ by": f"{record['error']:.0e}",
        "once: caching": each(record["cache"]),
        "at each start: checking": each(record["check"]),
        "on disk": f"{record['bytes'] / 2**10:.0f} KiB",
        "runs": len(record["tower"]),
    }


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time of both epochs for a clip."""
    for offset, kind in ((-0.2, "tower"), (0.2, "cached")):
        heights = [1e3 * statistics.median(record[kind]) / record["clips"] for record in records]
        axis.bar([place + offset for place in range(len(records))], heights, 0.4, label=kind)
    axis.set_xticks(range(len(records)), [record["model"] for record in records])
    axis.set(yscale="log", ylabel="milliseconds for a clip", title="An epoch with the tower and on cached features")
    axis.legend()


def main() -> None:
    """Check, time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=512, help="in an epoch of the micro-world's base")
    parser.add_argument("--large_clips", type=int, default=8, help="in an epoch of the large tower; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="16 clips, no large tower, 2 repeats")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    if args.quick:
        args.clips, args.large_clips, args.repeats = 16, 0, 2
    keep_memory()
    torch.set_num_threads(args.threads)
    machine = f"{hardware()}; {args.threads} threads, float32"
    print(f"{machine}; at most {args.repeats} runs in turns; times are for one clip\n")
    records = [compare("micro base", micro, args.clips, 8, args.repeats)]
    if args.large_clips:
        records.append(compare("ViT-L/14 tower, random weights", large, args.large_clips, 2, args.repeats))
    print(markdown([row(record) for record in records]))
    save(
        args.output_dir,
        {"hardware": machine, "arguments": vars(args), "epochs": records},
        {"epochs": partial(draw, records)},
    )


if __name__ == "__main__":
    main()
