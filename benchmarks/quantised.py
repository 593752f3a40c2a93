"""What do fewer bits of the language model save and cost, beside bfloat16 at the sizes of the real model?

    python benchmarks/quantised.py --output_dir runs/quantised        # two of the 32 layers; 8 GiB of memory
    python benchmarks/quantised.py --layers 32                        # all of them
    python benchmarks/quantised.py --quick --turns 1                  # to see that all is well

The weights are random. The language model has a few of its layers, since all are alike; the memory of 32 is computed
from what one takes. Times are of the processor, one thread, in turns: a prompt of a clip and a question through the
layers of the language model, and the token behind it. What is not quantised is compared with the model in bfloat16,
weights and features of a clip, to the bit.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from full_size import SMALL
from measuring import MIB, hardware, in_turns, markdown, milliseconds, ratio, save
from transformers import AutoModelForImageTextToText, DynamicCache

from hmba_hf import HMBAConfig
from hmba_hf.families import family_of, load_model
from hmba_hf.quantisation import QUANTIZATIONS, quantising_options

PLAIN = "bfloat16"
ALL_LAYERS = 32
QUESTION = 80  # tokens around those of the clip
DTYPE = torch.bfloat16


def build(args: argparse.Namespace) -> Any:
    """Draw the random weights of a model."""
    config = HMBAConfig(**SMALL) if args.quick else HMBAConfig()
    config.text_config.num_hidden_layers = args.layers
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config, dtype=DTYPE).eval()


def size_of(module: torch.nn.Module) -> int:
    """Return the bytes of all tensors that a module saves, scales among them."""
    return sum(weight.nbytes for weight in parts_of(module.state_dict()))


def parts_of(weights: dict[str, Any]) -> list[torch.Tensor]:
    """Return plain tensors; torchao packs several in one."""
    found = []
    for weight in weights.values():
        if hasattr(weight, "__tensor_flatten__") and type(weight) not in (torch.Tensor, torch.nn.Parameter):
            names, _ = weight.__tensor_flatten__()
            found += [getattr(weight, name) for name in names]
        else:
            found.append(weight)
    return found


def check_whole(plain: Any, model: Any, pixels: torch.Tensor) -> None:
    """Check that all parts but the layers of the language model are those of the plain model, and so are features."""
    held = plain.state_dict()
    family = family_of(model)
    for name, weight in model.named_parameters():
        if family.part_of(name) != "language_model" or name == "lm_head.weight" or "embed_tokens" in name:
            assert weight.dtype == held[name].dtype and torch.equal(weight, held[name]), name
    with torch.no_grad():
        features = [one.get_video_features(pixels).pooler_output for one in (plain, model)]
    assert torch.equal(*features), "the features of a clip differ"


def stages_of(model: Any, prompt: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what is timed: a prompt, `(1, l, d)`, through the language model, and the token behind it."""
    language: Any = model.model.language_model
    cache = DynamicCache(config=model.config.text_config)

    @torch.no_grad()
    def read() -> Any:
        return language(inputs_embeds=prompt, past_key_values=DynamicCache(config=model.config.text_config))

    @torch.no_grad()
    def go_on() -> Any:
        language(inputs_embeds=prompt[:, -1:], past_key_values=cache)
        cache.crop(-1)

    with torch.no_grad():
        language(inputs_embeds=prompt, past_key_values=cache)
    return {"prompt": read, "token": go_on}


def main() -> None:
    """Build, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="of the language model")
    parser.add_argument("--ways", nargs="+", default=["bnb-4bit", "bnb-8bit"], choices=QUANTIZATIONS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--output_dir", help="for results.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {PLAIN: build(args)}
    vision = models[PLAIN].config.vision_config
    pixels = torch.randn(1, models[PLAIN].config.num_frames, 3, vision.image_size, vision.image_size, dtype=DTYPE)
    with tempfile.TemporaryDirectory() as folder:
        models[PLAIN].save_pretrained(folder)
        for way in args.ways:
            models[way] = load_model(folder, dtype=DTYPE, **quantising_options(folder, way)).eval()
            check_whole(models[PLAIN], models[way], pixels)
    patches = (vision.image_size // vision.patch_size) ** 2
    width = models[PLAIN].config.text_config.hidden_size
    prompt = torch.randn(1, patches + QUESTION, width, dtype=DTYPE)
    stages = {way: stages_of(model, prompt) for way, model in models.items()}
    times = {}
    for stage in ("prompt", "token"):
        runs = {way: stages[way][stage] for way in models}
        times[stage] = in_turns(runs, args.turns, clock=time.process_time)
    rows = []
    for way, model in models.items():
        layer = size_of(model.model.language_model.layers[0])
        rest = size_of(model) - args.layers * layer
        row = {"weights": way, "a layer": f"{layer / MIB:.1f} MiB"}
        row[f"the model with {ALL_LAYERS} layers"] = f"{(rest + ALL_LAYERS * layer) / MIB / 1024:.2f} GiB"
        for stage, taken in times.items():
            row[stage] = milliseconds(taken[way])
            row[f"{stage}, ratio"] = f"{ratio(taken[way], taken[PLAIN]):.2f}"
        rows.append(row)
    print(f"{hardware()}; {args.layers} layers, prompt of {prompt.shape[1]} tokens, random weights")
    print("all but the layers of the language model, and the features of a clip: equal to the bit")
    print(markdown(rows))
    save(args.output_dir, rows, {})


if __name__ == "__main__":
    main()
