"""How many operations does an answer about many frames take at the real sizes of the models of `answer_cost.py`?

    python benchmarks/answer_operations.py [--divisor 8]

Counted are the operations up to the first token in the base's own way and in ours, in a stream and cold, as in
`answer_cost.py`. Nothing is computed but Qwen3-VL's tower on one picture. Causal attention counts as half of that
between all tokens. The ratio of times comes near that of operations where neither memory nor calls take the time.
"""

import argparse
from typing import Any

import torch
from measuring import markdown
from scaled_bases import BASES, Base
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hmba_hf import HMBAVLMConfig, HMBAVLMForConditionalGeneration
from hmba_hf.flops import count_flops

TOKENS = 64  # of the prompts from which those of others are reckoned


def build_without_weights(base: Base, num_frames: int) -> Any:
    """Build H-MBA on a base with shapes alone."""
    with torch.device("meta"):
        config = HMBAVLMConfig(base_config=base.build_config(), num_frames=num_frames)
        return HMBAVLMForConditionalGeneration(config).eval()


@torch.no_grad()
def count_tower(base: Base, model: Any) -> int:
    """Count the operations of one picture, or of two frames that take the place of one."""
    encoder = model.model.base.base_model
    pictures = base.pictures(base.draw_frames(1))
    if hasattr(encoder, "visual"):  # it reads the numbers in the grids of pictures, which the meta device lacks
        encoder.visual.to_empty(device="cpu")
        # Torch counts no fused attention on CPUs.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            encoder.get_image_features(**pictures, return_dict=True)
        return counter.get_total_flops()
    on_meta = {name: value.to("meta") for name, value in pictures.items()}
    return count_flops(encoder.get_image_features, **on_meta, return_dict=True)


def count_prompt(base: Base, model: Any, tokens: int) -> float:
    """Count the operations of the language model on a prompt, which grow with its length and its square."""

    def count(length: int) -> int:
        embeddings = torch.empty(1, length, base.width, device="meta")
        return count_flops(model.model.base.base_model.language_model, inputs_embeds=embeddings, use_cache=True)

    once = count(TOKENS)
    of_square = (count(2 * TOKENS) - 2 * once) / (2 * TOKENS**2)
    of_token = once / TOKENS - of_square * TOKENS
    return of_token * tokens + of_square * tokens**2 / 2


def count_adapter(base: Base, model: Any, frames: int) -> int:
    """Count the operations of the adapter on the rows of some frames."""
    rows = torch.empty(1, frames, base.tokens, base.width, device="meta")
    return count_flops(model.model.temporal_adapter, rows)


def compare(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Count both ways at each number of frames."""
    base = BASES[name](args.divisor)
    model = build_without_weights(base, max(args.frames))
    tower = count_tower(base, model)
    rows = []
    for frames in args.frames:
        prompt, _ = base.ask_about_frames(base.draw_frames(frames))
        encoded = frames
        if base.modality == "video":
            encoded = -(-frames // 2)
        own = count_prompt(base, model, prompt["input_ids"].shape[1])
        adapter = count_adapter(base, model, frames)
        ours = count_prompt(base, model, base.ask_about_picture()["input_ids"].shape[1]) + adapter
        cold_own = own + encoded * tower
        cold_ours = ours + frames * tower
        row: dict[str, Any] = {"base": name, "frames": frames}
        row |= {"stream, own": tera(own), "stream, ours": tera(ours), "stream, ratio": f"{own / ours:.2f}"}
        row |= {
            "cold, own": tera(cold_own),
            "cold, ours": tera(cold_ours),
            "cold, ratio": f"{cold_own / cold_ours:.2f}",
        }
        rows.append({**row, "adapter of it": tera(adapter)})
    return rows


def tera(count: float) -> str:
    """Write a number of operations."""
    return f"{count / 1e12:.3g} T"


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="+", choices=list(BASES), default=list(BASES))
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--divisor", type=int, default=1, help="of the widths of the real models")
    args = parser.parse_args()
    rows = [row for name in args.bases for row in compare(name, args)]
    print(markdown(rows))


if __name__ == "__main__":
    main()
