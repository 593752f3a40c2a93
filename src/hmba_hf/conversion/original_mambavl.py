"""The released MambaVL, restated step by step from its description, under the original's names.

Axes: `b` clips, `t` frames, `p` patches per frame, `l` tokens of a question, `n` tokens of a clip, `d` channels.
`weights` are the tensors of a checkpoint with flash-attn's names.

Source: arXiv:2409.11513; Dongzhikang/MambaVL at 601b789; zhaoyue-zephyrus/AVION at 9763533, `transformer.py`.
"""

import torch
from torch import Tensor
from torch.nn import functional

from hmba_hf.conversion.original_adapter import Weights, original_mixer, part_of

PAD = 1  # RoBERTa's, whose place is its own number


def original_mambavl(weights: Weights, tokens: Tensor, questions: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the logits of both heads by their names, `(b, classes)`.

    Args:
        weights: of all but the video model.
        tokens: of clips, `(b, n, d)`.
        questions: of the heads `verb` and `noun`, `(b, l)` numbers of RoBERTa's words.
    """
    decays = {"A_log": weights["A_log"]}
    clip = original_mixer({**part_of(weights, "mamba_video."), **decays}, tokens).mean(1)
    logits = {}
    for number, head in enumerate(("verb", "noun")):
        text = original_text(weights, questions[head])
        asked = clip + original_mixer({**part_of(weights, "mamba_text."), **decays}, text).mean(1)
        logits[head] = functional.linear(asked, weights[f"head{number}.weight"], weights[f"head{number}.bias"])
    return logits


def original_text(weights: Weights, words: Tensor) -> Tensor:
    """Return the projected embeddings, `(b, l, d)`, of questions, `(b, l)`; padding is read, too."""
    tables = part_of(weights, "text_model.embeddings.")
    is_word = words != PAD
    places = is_word.cumsum(1) * is_word + PAD
    text = tables["word_embeddings.weight"][words] + tables["position_embeddings.weight"][places]
    text = text + tables["token_type_embeddings.weight"][0]
    text = functional.layer_norm(text, text.shape[-1:], tables["LayerNorm.weight"], tables["LayerNorm.bias"], 1e-5)
    text = functional.relu(functional.linear(text, weights["txt_proj.0.weight"]))
    text = functional.relu(functional.linear(text, weights["txt_proj.2.weight"], weights["txt_proj.2.bias"]))
    return functional.linear(text, weights["txt_proj.4.weight"], weights["txt_proj.4.bias"])


def original_avion(weights: Weights, clips: Tensor, num_heads: int) -> Tensor:
    """Return the tokens, `(b, 1 + t * p, d)`, of clips, `(b, t, channels, height, width)`; the first times are used.

    Args:
        weights: of the video model.
        clips: as above.
        num_heads: of attention, which no tensor shows.
    """
    kernel = weights["conv1.weight"].flatten(1)  # a column for each pixel of a patch, colour by colour
    side = round((kernel.shape[1] / clips.shape[2]) ** 0.5)
    pixels = functional.unfold(clips.flatten(0, 1), side, stride=side).transpose(1, 2)
    places = weights["positional_embedding"]
    patches = (functional.linear(pixels, kernel) + places[1:]).unflatten(0, clips.shape[:2])  # (b, t, p, d)
    if "temporal_embedding" in weights:
        patches = patches + weights["temporal_embedding"][: clips.shape[1], None]
    first = (weights["class_embedding"] + places[0]).expand(len(clips), 1, -1)
    tokens = _norm(weights, "ln_pre", torch.cat([first, patches.flatten(1, 2)], dim=1))
    layer = 0
    while block := part_of(weights, f"transformer.resblocks.{layer}."):
        tokens = tokens + _attend(block, _norm(block, "ln_1", tokens), num_heads)
        hidden = functional.linear(_norm(block, "ln_2", tokens), block["mlp.fc1.weight"], block["mlp.fc1.bias"])
        tokens = tokens + functional.linear(functional.gelu(hidden), block["mlp.fc2.weight"], block["mlp.fc2.bias"])
        layer += 1
    return _norm(weights, "ln_post", tokens)


def _attend(block: Weights, tokens: Tensor, num_heads: int) -> Tensor:
    """Let all tokens attend to all."""
    parts = functional.linear(tokens, block["attn.Wqkv.weight"], block["attn.Wqkv.bias"])
    query, key, value = parts.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # (b, heads, n, d / heads)
    weight = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    mixed = (weight @ value).transpose(1, 2).flatten(2)
    return functional.linear(mixed, block["attn.out_proj.weight"], block["attn.out_proj.bias"])


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)
