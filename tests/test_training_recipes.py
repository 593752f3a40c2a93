"""The options of a training as its recipe has them, and texts that are none."""

import pytest
from transformers.integrations import is_deepspeed_available

from hmba_hf.files import differences
from hmba_hf.messages import is_raised_here
from hmba_hf.tasks.answering.arguments import parse_arguments
from hmba_hf.training.arguments import recipe


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lora_targets", "q_proj"),
        ("time_format", " at {seconds} s. "),
        ("motion", "order"),
        ("gate_learning_rate", 0.5),
        ("optim_args", "foo=1"),
        ("optim_target_modules", "q_proj"),
        ("auto_find_batch_size", True),
        ("accelerator_config", '{"even_batches": false}'),
    ],
)
def test_a_changed_option_that_weights_depend_on_is_named(option, value):
    command = ["--model", "base", "--use_cpu", "True"]
    held = recipe(*parse_arguments("", command))
    (changed,) = differences(held, recipe(*parse_arguments("", [*command, f"--{option}", str(value)])))
    assert changed.startswith(f"{option} must be ")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr_scheduler_kwargs", "nojson", r"lr_scheduler_kwargs must be an object of JSON, .*, got 'nojson'$"),
        ("lr_scheduler_kwargs", "[1]", r"lr_scheduler_kwargs must be an object of JSON, .*, got '\[1\]'$"),
        ("gradient_checkpointing_kwargs", "true", "gradient_checkpointing_kwargs must be an object of JSON"),
        ("accelerator_config", "{even", "accelerator_config must be an object of JSON, .*, got '{even': Expecting"),
        ("fsdp_config", "{", "fsdp_config must be an object of JSON"),
        ("deepspeed", "{]", "deepspeed must be an object of JSON"),
        ("accelerator_config", '{"nosuch": 1}', r"accelerator_config must have options among .*, got \['nosuch'\]$"),
        ("optim_args", "beta3", "optim_args must be pairs such as a=1,b=2, got 'beta3'"),
        ("optim_args", "a=1,", "optim_args must be pairs such as a=1,b=2, got 'a=1,'"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused_in_a_sentence(option, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_arguments("", ["--model", "base", "--use_cpu", "True", f"--{option}", value])
    assert is_raised_here(caught.value)


@pytest.mark.skipif(is_deepspeed_available(), reason="this machine has DeepSpeed")
def test_an_option_without_its_package_names_the_command_that_installs_it():
    with pytest.raises(ImportError, match="--deepspeed needs `pip install deepspeed`"):
        parse_arguments("", ["--model", "base", "--use_cpu", "True", "--deepspeed", "zero.json"])


def test_the_precision_of_the_launcher_is_part_of_the_recipe(tmp_path, monkeypatch):
    command = ["--model", "m", "--output_dir", str(tmp_path), "--use_cpu", "True"]
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    plain = recipe(*parse_arguments("", command))
    stated = recipe(*parse_arguments("", [*command, "--bf16", "True"]))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert recipe(*parse_arguments("", command)) == {**plain, "mixed_precision": "bf16"}
    assert recipe(*parse_arguments("", [*command, "--bf16", "True"])) == stated, "one option says it"
