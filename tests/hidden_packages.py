"""Import every module of the package with other packages hidden; a program, which prints what came of it as JSON.

    python tests/hidden_packages.py '{"": ["peft", "numba"], "cpu": ["peft"]}' scratch_folder

Each key is an extra and lists the packages that it lacks; "" is the installation without extras, which lacks those of
all. What is printed holds `{"module or door": "why it failed" or null}` for each.
"""

import importlib
import json
import os
import pkgutil
import sys
import traceback
import warnings
from importlib.machinery import PathFinder
from pathlib import Path


class Hiding:
    """In the place of Python's own finder, finds all packages but the hidden ones."""

    hidden: frozenset = frozenset()

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        return PathFinder.find_spec(name, path, target)

    def find_distributions(self, *context):
        return PathFinder.find_distributions(*context)

    def invalidate_caches(self):
        PathFinder.invalidate_caches()


def modules():
    """Yield the names of all modules of the package."""
    import hmba_hf

    for found in pkgutil.walk_packages(hmba_hf.__path__, "hmba_hf.", onerror=lambda name: None):
        if not found.name.endswith("__main__"):
            yield found.name


def doors(scratch):
    """Yield what a user calls that needs more than importing its module, with a name each."""
    from hmba_hf import visualization
    from hmba_hf.data.actions.samples import action_features
    from hmba_hf.data.captions.samples import caption_features
    from hmba_hf.data.loading import load_rows
    from hmba_hf.data.samples import bddx_features, drama_features
    from hmba_hf.metrics.caption_tokens import benchmark_folder
    from hmba_hf.models.ops_backends import scan_backends
    from hmba_hf.training.parts import require_bitsandbytes
    from hmba_hf.training.updates import find_updates

    def curves():
        visualization.plot_curves({"loss": [(0, 1), (1, 0)]}, "a")

    def load_a_folder():
        load_rows(str(scratch), "train")

    def read_updates():
        (scratch / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
        find_updates(str(scratch), None)

    def scan_by_numba():
        os.environ["HMBA_SCAN_BACKEND"] = "cpu"
        scan_backends("cpu")

    def scan_by_triton():
        os.environ.update(HMBA_SCAN_BACKEND="triton", TRITON_INTERPRET="1")
        scan_backends("cpu")

    def features_of_actions():
        action_features(["stop"])

    yield from (bddx_features, drama_features, caption_features, features_of_actions, load_a_folder)
    yield from (benchmark_folder, require_bitsandbytes, read_updates, curves, scan_by_numba, scan_by_triton)


def attempt(call):
    """Return why a call failed for want of a package, `None` where it did not."""
    try:
        call()
    except ImportError as error:
        return f"{type(error).__name__}: {error}"
    except RuntimeError as error:  # a backend that was asked for
        return f"{type(error).__name__}: {error}" if "must name a backend" in str(error) else None
    except (OSError, ValueError):  # an empty folder
        return None
    return None


def explore(scratch, names):
    """Import modules and open doors; return what came of each."""
    found = {}
    for name in names:
        found[name] = attempt(lambda name=name: importlib.import_module(name))
    for door in doors(scratch):
        found[door.__name__] = attempt(door)
    return found


def in_a_child(work):
    """Return what a function returns in a fork of this process, which leaves this one as it is."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(work()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def main():
    """Explore the base, then each extra in a fork of a process that has imported what the base can."""
    warnings.simplefilter("ignore")
    environments = json.loads(sys.argv[1])
    scratch = Path(sys.argv[2])
    finder = Hiding()
    sys.meta_path[sys.meta_path.index(PathFinder)] = finder
    finder.hidden = frozenset(environments.pop(""))
    names = list(modules())
    base = {}
    for name in names:
        base[name] = attempt(lambda name=name: importlib.import_module(name))
    outcomes = {"": base | in_a_child(lambda: explore(scratch, []))}
    for extra, hidden in environments.items():
        finder.hidden = frozenset(hidden)
        outcomes[extra] = in_a_child(lambda: explore(scratch, names))
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
