"""`import hmba_hf` is light, and yet its models are at transformers' doors before anybody can look for them."""

import json
import subprocess
import sys

import pytest

import hmba_hf
from hmba_hf import registration

# How a program may come to the Auto classes; each in a process of its own, forked from one that knows none of them.
WAYS = {
    "the package first": "import hmba_hf; from transformers import CONFIG_MAPPING",
    "transformers first": "from transformers import AutoModel, CONFIG_MAPPING; import hmba_hf",
    "models that import the rest": "import hmba_hf; from transformers import Trainer, CONFIG_MAPPING",
    "a module by its whole name": "import hmba_hf, transformers.models.auto.configuration_auto as auto; "
    "CONFIG_MAPPING = auto.CONFIG_MAPPING",
    "a module of the package": "from hmba_hf.models.modeling_hmba import HMBAModel; HMBAModel.check_push; "
    "from transformers import CONFIG_MAPPING",
    "parts of the package": "import hmba_hf; hmba_hf.models.modeling_hmba.HMBAModel; hmba_hf.streaming.VideoStream; "
    "from transformers import CONFIG_MAPPING",
    "all names": "from hmba_hf import *; VideoStream; from transformers import CONFIG_MAPPING",
}
CHECK = """
from transformers.pipelines import PIPELINE_REGISTRY
assert {'hmba', 'hmba_vlm', 'mambavl', 'videomamba'} <= {*CONFIG_MAPPING}, 'no models'
assert 'video-text-to-text' in PIPELINE_REGISTRY.get_supported_tasks(), 'no pipeline'
import hmba_hf
assert hmba_hf.HMBAProcessor.check_push and hmba_hf.VideoTextToTextPipeline.check_push, 'no push'
"""
IN_FORKS = """
import json, os, sys, traceback
import accelerate, av, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor, transformers  # once for all

outcomes = {}
for name, code in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exec(code, {})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    outcomes[name] = os.waitpid(child, 0)[1]
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def outcomes():
    codes = {name: way + "\n" + CHECK for name, way in WAYS.items()}
    codes["light"] = (
        "import hmba_hf, sys\n"
        "assert hmba_hf.__version__ and 'hmba_hf.models' not in sys.modules\n"
        "assert 'transformers.modeling_utils' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", IN_FORKS, json.dumps(codes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize("name", [*WAYS, "light"])
def test_the_models_are_registered_by_any_way_to_the_auto_classes_and_not_before(outcomes, name):
    statuses, errors = outcomes
    assert statuses[name] == 0, errors


def test_the_package_shows_what_it_registers_and_nothing_else():
    assert hmba_hf.__all__ == registration.__all__
    assert {*hmba_hf.__all__} <= {*dir(hmba_hf)}
    for name in hmba_hf.__all__:
        assert getattr(hmba_hf, name) is getattr(registration, name)
    with pytest.raises(AttributeError, match="module 'hmba_hf' has no attribute 'nothing'"):
        _ = hmba_hf.nothing
    assert not hasattr(hmba_hf, "_push_model")
