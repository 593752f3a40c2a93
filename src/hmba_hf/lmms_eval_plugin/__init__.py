"""H-MBA as a model of lmms-eval, and DRAMA, BDD-X and the micro-world as tasks; lmms-eval is installed beside it.

lmms-eval finds the model by itself, through the entry point `lmms_eval.models`, and the tasks in the folder that
`python -m hmba_hf.lmms_eval_plugin` prints:

    lmms-eval --model hmba --model_args pretrained=org/hmba-drama --tasks hmba_drama,hmba_micro_world --batch_size 8 \\
        --include_path "$(python -m hmba_hf.lmms_eval_plugin)"

`hmba_drama` and `hmba_bddx` read the dataset, a folder or Hub id, that the environment variables `HMBA_DRAMA` and
`HMBA_BDDX` name; `hmba_micro_world` needs none, and says nothing about real roads. The scores are those of
`hmba evaluate`. lmms-eval 0.7 asks for PyAV before 16, with which not every damaged video is noticed.
"""

from pathlib import Path
from typing import Any

TASKS = Path(__file__).parent / "tasks"


def manifests() -> list[Any]:
    """What lmms-eval asks for when it looks for models: the name `hmba` and the class behind it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="hmba", chat_class_path=f"{__name__}.model.HMBA")]
