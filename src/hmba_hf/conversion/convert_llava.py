"""Convert LLaVA to H-MBA: its tower, projector and language model, and a new adapter that starts as the identity.

    hmba convert llava --checkpoint llava-hf/llava-1.5-7b-hf --output_dir hmba-llava
    hmba convert llava --checkpoint liuhaotian/llava-v1.5-7b --output_dir hmba-llava

It reads both layouts of LLaVA-1.5, LLaVA's own and transformers', and in transformers' every LLaVA-style checkpoint
whose tower returns one feature for each patch and whose projector has two layers. Until its adapter is trained, the
result encodes a still picture, or a clip of that picture of any length, as LLaVA encodes the picture. It reads a
picture whole that LLaVA would read in tiles, and pads pictures to a square by a white margin, as H-MBA's boxes need.

A checkpoint is a folder, a Hub id (`org/name` or `org/name@revision`) or a file. No code in it is run. The result
holds processor, tokenizer, code and card, and is written one tensor at a time, whole or not at all. `--verify` reads
it again and compares every tensor with its origins. In transformers' layout it also compares the logits of a still
picture with those of transformers' own class, for which the model must fit into memory.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModel, LlamaConfig
from transformers.processing_utils import ProcessorMixin

from hmba_hf import HMBAConfig, HMBAForConditionalGeneration, HMBAProcessor
from hmba_hf.conversion.checkpoint_folders import (
    Checkpoint,
    blank_model,
    fresh_adapter,
    read_generation_config,
    special_ids,
    wanted_tensors,
    whole_folder,
    write_checkpoint,
)
from hmba_hf.conversion.converter_commands import asked_dtype, hmba_parser, report_unused, run_conversion
from hmba_hf.conversion.foreign_checkpoints import card_name, open_checkpoint, open_legacy_tokenizer, open_tokenizer
from hmba_hf.conversion.rename_keys import (
    PROJECTOR,
    TOWER,
    Rule,
    TensorSpec,
    llava_rules,
    plan_renaming,
    single_dtype,
    tied_head_rules,
    transformers_llava_rules,
)
from hmba_hf.conversion.tensor_sources import JoinedTensors, MemoryTensors, RenamedTensors, Tensors, in_dtype
from hmba_hf.conversion.verification import compare_tensors, compare_with_llava
from hmba_hf.conversion.vision_towers import VisionTower
from hmba_hf.hub import CardDetails
from hmba_hf.messages import run_command

# Model types of LLaVA's form in transformers: a tower, two layers, a language model. They differ in cutting pictures.
FITTING = ("llava", "llava_next", "llava_next_video", "llava_onevision", "video_llava")
ORIGINAL = ("llava", "llava_llama")  # model types in LLaVA's own layout
IMAGE_TOKEN = "<image>"
SCALED = ("logit_scale", "logits_scaling", "final_logit_softcapping")
TEMPLATE_HELP = "default: for LLaVA-1.5 vicuna v1.1, with which it was trained, for others the source's"
ORIGIN = (
    "Made of `{checkpoint}` by `hmba convert llava` of hmba-hf. The adapter is new: until it is fine-tuned, "
    "the model sees the current frame alone, as LLaVA would."
)
# In front of a template for pictures, this turns a video into a picture, and a text alone into a list of one block.
VIDEOS_ARE_PICTURES = """\
{%- set rewritten = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set blocks = namespace(found=[]) -%}
    {%- if message['content'] is string -%}
        {%- set blocks.found = [dict(type='text', text=message['content'])] -%}
    {%- else -%}
        {%- for block in message['content'] -%}
            {%- set kind = 'image' if block['type'] == 'video' else block['type'] -%}
            {%- set blocks.found = blocks.found + [dict(block, type=kind)] -%}
        {%- endfor -%}
    {%- endif -%}
    {%- set rewritten.messages = rewritten.messages + [dict(message, content=blocks.found)] -%}
{%- endfor -%}
{%- set messages = rewritten.messages -%}
"""


class Llava(NamedTuple):
    """A LLaVA.

    Args:
        settings: its config.json.
        folder: that of config.json.
        config: of H-MBA on it.
        tower: its vision tower.
    """

    tensors: Tensors
    settings: dict[str, Any]
    folder: Path
    tokenizer: Any
    config: HMBAConfig
    tower: VisionTower

    @property
    def is_original(self) -> bool:
        """Whether the layout is LLaVA's own."""
        return is_original(self.settings)


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = hmba_parser(__doc__, program="hmba convert llava")
    parser.add_argument("--chat_template", choices=("source", "vicuna"), help=TEMPLATE_HELP)
    parser.add_argument("--verify", action="store_true", help="see above")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Convert."""
    run_conversion(parse_arguments(words), convert)


def convert(args: argparse.Namespace) -> None:
    """Write a checkpoint of this package."""
    llava = read_llava(args)
    model = blank_model(HMBAForConditionalGeneration, llava.config)
    tensors, dtype, unused = plan_tensors(args, llava, model)
    report_unused(unused)
    card = CardDetails(license=args.license, origin=ORIGIN.format(checkpoint=card_name(args.checkpoint)))
    settings = read_generation_config(llava.folder)
    processor = build_processor(args, llava)
    checkpoint = Checkpoint(
        model=model, tensors=tensors, dtype=dtype, generation_config=settings, processor=processor, card=card
    )
    with whole_folder(args.output_dir) as folder:
        write_checkpoint(folder, args.output_dir.resolve().name, checkpoint, args.max_shard_size)
        if args.verify:
            print(f"verified: {compare_tensors(folder, tensors)} tensors equal their origins")
            if llava.settings["model_type"] == "llava" and not llava.is_original:
                error = compare_with_llava(folder, llava.folder)
                print(f"verified: the logits of a still picture match LLaVA's to {error:.1e}")


def read_llava(args: argparse.Namespace) -> Llava:
    """Open a LLaVA of either layout.

    Raises:
        FileNotFoundError: if something is missing.
        ValueError: if something is damaged, or if H-MBA cannot hold it.
    """
    found = open_checkpoint(args)
    original = is_original(found.settings)
    if args.vision and not original:
        raise ValueError(f"--vision must be absent for a layout with a tower of its own, got {args.vision}")
    if original:
        tokenizer = open_legacy_tokenizer(found.folder)
    else:
        tokenizer = open_tokenizer(found.folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    num_frames = 5 if args.num_frames is None else args.num_frames
    if original:
        tower = VisionTower(args.vision or found.settings["mm_vision_tower"])
        config = original_config(found.settings, tower, tokenizer, num_frames=num_frames)
    else:
        tower = VisionTower(str(found.folder))
        config = transformers_config(found.folder, tower, num_frames)
    config.text_config.name_or_path = found.hub_id
    return Llava(
        tensors=found.tensors,
        settings=found.settings,
        folder=found.folder,
        tokenizer=tokenizer,
        config=config,
        tower=tower,
    )


def is_original(settings: dict[str, Any]) -> bool:
    """Return whether a layout is LLaVA's own, not transformers'.

    Raises:
        ValueError: if it is neither.
    """
    if "mm_vision_tower" in settings and settings.get("model_type") in ORIGINAL:
        return True
    if settings.get("model_type") not in FITTING:
        raise ValueError(f"model_type must be one of {list(FITTING)}, got {settings.get('model_type')!r}")
    return False


def original_config(settings: dict[str, Any], tower: VisionTower, tokenizer: Any, num_frames: int) -> HMBAConfig:
    """Build the configuration for LLaVA's own layout, and add the token for the picture to its tokenizer."""
    projectors = {"linear": None, "mlp2x_gelu": "gelu"}
    for name, allowed in (("mm_projector_type", projectors), ("mm_vision_select_feature", ("patch",))):
        if settings.get(name, next(iter(allowed))) not in allowed:
            raise ValueError(f"{name} must be one of {list(allowed)}, got {settings[name]!r}")
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    image_token_id = tokenizer.get_vocab()[IMAGE_TOKEN]
    known = {*LlamaConfig.__annotations__, "rope_theta", "rope_scaling"}
    llama = {name: value for name, value in settings.items() if name in known}
    llama["vocab_size"] = max(llama["vocab_size"], image_token_id + 1)
    return HMBAConfig(
        vision_config=tower.config,
        text_config=LlamaConfig(**{**llama, **special_ids(tokenizer)}),
        video_token_id=image_token_id,
        vision_feature_layer=settings.get("mm_vision_select_layer", -2),
        num_frames=num_frames,
        projector_hidden_act=projectors[settings.get("mm_projector_type", "linear")],
    )


def transformers_config(folder: Path, tower: VisionTower, num_frames: int) -> HMBAConfig:
    """Build the configuration for transformers' layout.

    Raises:
        ValueError: if H-MBA cannot encode pictures as the model does.
    """
    theirs: Any = AutoConfig.from_pretrained(folder)
    layers = theirs.vision_feature_layer
    if isinstance(layers, int):
        layers = [layers]
    if len(layers) > 1:
        raise ValueError(f"vision_feature_layer must be one layer, got {list(layers)}")
    scaled = [name for name in SCALED if getattr(theirs.text_config, name, None) is not None]
    if scaled:
        raise ValueError(f"the language model must be without {SCALED}, which LLaVA ignores, got {scaled}")
    config = HMBAConfig(
        vision_config=tower.config,
        text_config=theirs.text_config,
        video_token_id=theirs.image_token_id,
        vision_feature_layer=layers[0],
        num_frames=num_frames,
        projector_hidden_act=theirs.projector_hidden_act,
        tie_word_embeddings=theirs.tie_word_embeddings,
    )
    check_tower(config, theirs.vision_feature_select_strategy)
    return config


def check_tower(config: HMBAConfig, select_strategy: str) -> None:
    """Raise a `ValueError` unless LLaVA selects the same features as H-MBA: the patches of each picture, no more."""
    with torch.device("meta"):
        tower = AutoModel.from_config(config.vision_config)
        pictures = torch.empty(2, 3, *config.frame_size)
        shape = tower(pictures, output_hidden_states=True).hidden_states[config.vision_feature_layer].shape
    name = type(tower).__name__
    if shape[0] != len(pictures):
        raise ValueError(f"the vision tower must encode each picture by itself, got {name}, which joins them")
    taken = shape[1]
    if select_strategy == "default":  # all but the class token
        taken -= 1
    if taken != config.num_patches:
        raise ValueError(
            f"the vision tower must return one feature for each of {config.num_patches} patches, got {taken} of "
            f"{name} with vision_feature_select_strategy={select_strategy!r}"
        )


def plan_tensors(args: argparse.Namespace, llava: Llava, model: Any) -> tuple[Tensors, torch.dtype, list[str]]:
    """Return the tensors of the result, their dtype, and the names of unused originals."""
    wanted = wanted_tensors(model)
    source = llava.tensors
    rows: dict[str, int] = {}
    embeddings = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    fresh = MemoryTensors(fresh_adapter(llava.config, args.seed) | missing_biases(llava, wanted))
    from_source = {name: spec for name, spec in wanted.items() if name not in fresh.specs}
    if llava.is_original:
        for name in (f"{embeddings}.weight", "lm_head.weight"):
            rows[name], width = wanted[name].shape
            from_source[name] = TensorSpec((llava.settings["vocab_size"], width), wanted[name].dtype)
    has_tower = not llava.is_original or any(name.startswith("model.vision_tower.") for name in source.specs)
    if not has_tower:
        from_source = {name: spec for name, spec in from_source.items() if not name.startswith(TOWER)}
    table = llava_table(llava, wanted, f"{embeddings}.weight")
    renaming = plan_renaming(source.specs, table, from_source)
    dtype = asked_dtype(args) or single_dtype(source.specs, renaming)
    parts: list[Tensors] = [RenamedTensors(source, renaming, dtype, rows)]
    if not has_tower:
        parts.append(llava.tower.renamed(wanted, dtype))
    return JoinedTensors(*parts, in_dtype(fresh, dtype)), dtype, renaming.unused


def missing_biases(llava: Llava, wanted: dict[str, TensorSpec]) -> dict[str, torch.Tensor]:
    """Return zeros for the biases of a projector without any."""
    if llava.settings.get("multimodal_projector_bias", True):
        return {}
    biases = {}
    for name, spec in wanted.items():
        if name.startswith(PROJECTOR) and name.endswith(".bias"):
            biases[name] = torch.zeros(spec.shape)
    return biases


def llava_table(llava: Llava, wanted: dict[str, TensorSpec], embeddings: str) -> list[Rule]:
    """Return the table of a layout."""
    if llava.is_original:
        return llava_rules(llava.config.projector_hidden_act is not None, wanted)
    rules = transformers_llava_rules(wanted)
    if llava.config.tie_word_embeddings:
        return tied_head_rules(embeddings) + rules
    return rules


def speaks_vicuna(llava: Llava, template: str | None) -> bool:
    """Return whether a model is LLaVA-1.5, trained with vicuna v1.1; later ones on Llamas have own templates."""
    is_llama = llava.settings["model_type"] in ORIGINAL and llava.config.text_config.model_type == "llama"
    own = template or llava.tokenizer.chat_template
    return is_llama and (not own or "ASSISTANT:" in str(own))


def build_processor(args: argparse.Namespace, llava: Llava) -> HMBAProcessor:
    """Build the processor: LLaVA's normalisation, tokens and prompts."""
    token = llava.tokenizer.convert_ids_to_tokens(llava.config.video_token_id)
    joined = HMBAProcessor.from_vision_text_pretrained(
        str(llava.tower.path), str(llava.folder), video_token=token, num_frames=llava.config.num_frames
    )
    settings, _ = ProcessorMixin.get_processor_dict(llava.folder)
    template = settings.get("chat_template")
    if args.chat_template is None:
        is_vicuna = speaks_vicuna(llava, template)
    else:
        is_vicuna = args.chat_template == "vicuna"
    if is_vicuna or template is not None:
        llava.tokenizer.chat_template = None  # else it would be saved instead
    if is_vicuna:
        template = None
    options: dict[str, Any] = {"patch_size": joined.patch_size, "video_token": token}
    if llava.settings.get("mm_use_im_start_end"):
        options |= {"video_start_token": "<im_start>", "video_end_token": "<im_end>"}
    if template is not None:
        options["chat_template"] = _change_each(template, lambda own: VIDEOS_ARE_PICTURES + own)
    processor: Any = HMBAProcessor(joined.video_processor, llava.tokenizer, **options)
    if template is None:  # LLaVA writes a line break after each picture
        plain = json.dumps(token)
        broken = json.dumps(f"{token}\n")
        processor.chat_template = _change_each(processor.chat_template, lambda own: own.replace(plain, broken))
    return processor


def _change_each(templates: Any, change: Callable[[str], str]) -> Any:
    """Change one chat template, or each of several by name."""
    if isinstance(templates, dict):
        return {name: change(template) for name, template in templates.items()}
    return change(templates)


if __name__ == "__main__":
    run_command(main)
