"""The test suites that transformers runs over its own models, taken from the source release of the installed version.

They are no part of the installed package and of this repository: the release is downloaded once into `.cache`.
"""

import fnmatch
import functools
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import pytest
import transformers
from filelock import FileLock
from packaging.version import Version
from PIL import Image
from transformers import testing_utils
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

CACHE = Path(__file__).parents[1] / ".cache"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
PACKAGE = "transformers_tests"
# What a decorator may skip any test for: parts of a machine, or packages, that these suites do without.
LACKING = {
    "test requires *accelerator*": "the suites run on the CPU",
    "test requires Flash Attention*": "runs on GPUs only",
    "test requires MPS": "runs on Apple's GPUs only",
    "test requires deepspeed": "runs on GPUs only",
    "test requires the kernels library": "fetches kernels from the Hub",
}


def _download_source_release(version: str, folder: Path) -> Path:
    """Fetch the source archive of one transformers version with pip, from whatever index pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "transformers"]
    command += ["--quiet", "--disable-pip-version-check", "--dest", str(folder), f"transformers=={version}"]
    outcome = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
    if outcome.returncode != 0:
        raise RuntimeError(
            f"the source release of transformers {version}, which holds the suites that these tests run, could not be "
            f"downloaded; pip said: {outcome.stderr.strip() or outcome.stdout.strip()}"
        )
    (archive,) = folder.glob("*.tar.gz")
    return archive


def _suites_folder(version: str) -> Path:
    """Return the folder with the suites of one transformers version; the first process that asks fetches it."""
    suites = CACHE / f"transformers-{version}-tests"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / "transformers.lock"):
        if not suites.is_dir():
            with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
                with tarfile.open(_download_source_release(version, Path(scratch))) as archive:
                    wanted = [member for member in archive if member.name.split("/")[1:2] == ["tests"]]
                    archive.extractall(scratch, members=wanted, filter="data")
                (extracted,) = Path(scratch).glob("*/tests")
                (extracted / "__init__.py").touch()  # one of the suites executes it
                os.replace(extracted, suites)
    return suites


def _stand_in(name: str, **attributes: object) -> None:
    """Put a module in place of one that the suites import and the source release lacks."""
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


@functools.cache
def _made_here(url: str) -> str:
    """Return the path of a video of 11 frames, or of a picture, in place of one that the suites would fetch."""
    path = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"])) / url.rsplit("/", 1)[-1]
    pictures = [Image.new("RGB", (320, 240), (20 * index, 100, 200)) for index in range(11)]
    if path.suffix != ".mp4":
        pictures[0].save(path, format="PNG")
        return str(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height = pictures[0].size
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return str(path)


def _prepare_imports() -> None:
    testing_utils.require_torchcodec = lambda test: test  # our decoder does without
    package = ModuleType(PACKAGE)
    package.__path__ = [str(_suites_folder(transformers.__version__))]
    sys.modules[PACKAGE] = package
    _stand_in(f"{PACKAGE}.exporters")
    _stand_in(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.generation")
    _stand_in(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _stand_in(f"{PACKAGE}.utils")
    _stand_in(f"{PACKAGE}.utils.test_configuration_utils", config_common_kwargs={})
    _stand_in("fetch_hub_objects_for_ci", url_to_local_path=_made_here)


def introduce(model_type: str, **models: type) -> None:
    """Add a model to the tables of class names by which the suite for models decides what applies to a class.

    Args:
        model_type: of its configuration.
        models: by the name of their table in small letters, such as `model_for_pretraining`.
    """
    for name, model in models.items():
        table = f"{name.upper()}_MAPPING_NAMES"
        setattr(modeling, table, {**getattr(modeling, table), model_type: model.__name__})


def account_for(failures: dict[str, str], skips: dict[str, str]) -> Callable[[type], type]:
    """Hold the tests of a class to two tables of reasons.

    The tests named in `failures` must fail. One that skips itself must match a pattern in `skips`, and one that a
    decorator skips must match one there or give a reason that `LACKING` accounts for.
    """

    def is_accounted_for(test: str) -> bool:
        return any(fnmatch.fnmatch(test, pattern) for pattern in skips)

    def hold(case: type) -> type:
        tests = [name for name in dir(case) if name.startswith("test_")]
        for pattern in (*failures, *skips):
            assert fnmatch.filter(tests, pattern), f"{case.__name__} has no test named {pattern}"
        for name in tests:
            reason = getattr(getattr(case, name), "__unittest_skip_why__", None)
            known = (
                reason is None or is_accounted_for(name) or any(fnmatch.fnmatch(reason, known) for known in LACKING)
            )
            assert known, f"a decorator skips {case.__name__}.{name}, for a reason not accounted for: {reason}"
        for name, reason in failures.items():
            setattr(case, name, _must_fail(getattr(case, name), reason))

        def skip_test(self: unittest.TestCase, reason: str) -> None:
            if not is_accounted_for(self._testMethodName):
                self.fail(f"the test skips itself, for a reason that is not accounted for: {reason}")
            raise unittest.SkipTest(reason)

        case.skipTest = skip_test
        return case

    return hold


def _must_fail(test: Callable, reason: str) -> Callable:
    @pytest.mark.xfail(reason=reason, strict=True)
    @functools.wraps(test)
    def failing(self: unittest.TestCase) -> None:
        test(self)

    return failing


def _skip_where_the_tables_are_of_a_newer_version() -> None:
    (measured,) = re.findall(r"^transformers==(\S+)", CONSTRAINTS.read_text(), flags=re.MULTILINE)
    if Version(transformers.__version__) < Version(measured):
        reason = f"the tables name tests of transformers {measured}, got {transformers.__version__}"
        pytest.skip(reason, allow_module_level=True)


_skip_where_the_tables_are_of_a_newer_version()
_prepare_imports()
modeling = importlib.import_module(f"{PACKAGE}.test_modeling_common")
ModelTesterMixin = modeling.ModelTesterMixin
ConfigTester = importlib.import_module(f"{PACKAGE}.test_configuration_common").ConfigTester
TrainingTesterMixin = importlib.import_module(f"{PACKAGE}.test_training_mixin").TrainingTesterMixin
ProcessorTesterMixin = importlib.import_module(f"{PACKAGE}.test_processing_common").ProcessorTesterMixin
video_processing = importlib.import_module(f"{PACKAGE}.test_video_processing_common")
video_processing.AutoVideoProcessor = AutoVideoProcessor  # the public name raises where torchvision is missing
VideoProcessingTestMixin = video_processing.VideoProcessingTestMixin
prepare_video_inputs = video_processing.prepare_video_inputs
