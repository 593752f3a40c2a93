"""The rules of CONTRIBUTING.md that a machine can hold: who may import whom, what travels with a checkpoint, names."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hmba_hf.house import FLOORS
from hmba_hf.hub.checkpoints import checkpoint_files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "hmba_hf"
BUNDLE = PACKAGE / "models"
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in SOURCES}
BUNDLE_FILES = [path for path in sorted(BUNDLE.glob("*.py")) if path.name != "__init__.py"]
FOLDERS = ("examples", "benchmarks")
OUTSIDE = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

MAY_IMPORT = {floor.name: set(floor.imports) for floor in FLOORS}
# Imported for type checkers only, which makes the file travel with a saved processor.
MAY_NAME_FOR_TYPES = {"processing": {"pipeline"}}
SHARED_FLOORS = {floor.name for floor in FLOORS if floor.travels_with and not floor.families}
REQUIRED = {"accelerate", "av", "huggingface_hub", "jinja2", "numpy", "PIL", "safetensors", "torch", "transformers"}
OPTIONAL = (
    "datasets evaluate kernels llvmlite lmms_eval mamba_ssm matplotlib numba peft pycocoevalcap torchvision triton "
    "vllm"
).split()
BANNED_WORDS = {"utils", "helpers", "common", "misc", "manager"}
UNSAFE_MODULES = {"dill", "joblib", "marshal", "pickle", "shelve"}


class Import(NamedTuple):
    """One `import` of a file: the module as an absolute dotted name, the names taken from it, and where it stands."""

    module: str
    names: list[str]
    level: int
    line: int
    guarded: bool  # inside a `try:`
    for_types: bool  # inside `if TYPE_CHECKING:`


def imports(path: Path) -> Iterator[Import]:
    package = path.relative_to(ROOT / "src").parent.parts if path.is_relative_to(PACKAGE) else ()

    def visit(node: ast.AST, guarded: bool, for_types: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, [], 0, child.lineno, guarded, for_types)
            elif isinstance(child, ast.ImportFrom):
                above = package[: len(package) - child.level + 1] if child.level else ()
                module = ".".join((*above, *([child.module] if child.module else [])))
                names = [alias.name for alias in child.names]
                yield Import(module, names, child.level, child.lineno, guarded, for_types)
            else:
                types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from visit(child, guarded or isinstance(child, ast.Try), for_types or types)

    yield from visit(ast.parse(path.read_text()), False, False)


def floor_and_family(module: str) -> tuple[str, str]:
    """Split `hmba_hf.models.modeling_hmba` into `("modeling", "hmba")`, `hmba_hf.data.samples` into `("data", "")`."""
    _, room, *rest = *module.split("."), ""
    if room == "":
        return "models", ""  # what the package itself shows
    if room == "tasks":
        return room, rest[0]
    if room != "models":
        return room, ""
    for floor in sorted(MAY_IMPORT, key=len, reverse=True):
        if rest[0].startswith(f"{floor}_"):
            return floor, rest[0].removeprefix(f"{floor}_")
    return "models", ""


def house_imports(path: Path) -> Iterator[tuple[str, Import]]:
    """Yield every house module that a file imports, each name of `from package import module` by itself."""
    for found in imports(path):
        if found.module.split(".")[0] != "hmba_hf":
            continue
        names = {f"{found.module}.{name}" for name in found.names}
        taken = sorted(names & set(MODULES.values()))
        yield from ((module, found) for module in taken or [found.module])


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def defined_names(path: Path) -> Iterator[tuple[str, int]]:
    yield path.stem, 1
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno


def test_every_file_imports_only_from_the_floors_below_it():
    wrong = []
    for path in SOURCES:
        if path in (PACKAGE / "__init__.py", BUNDLE / "__init__.py"):
            continue
        floor, family = floor_and_family(MODULES[path])
        assert floor in MAY_IMPORT, f"{where(path, 1)} is on no known floor: {sorted(MAY_IMPORT)}"
        for module, found in house_imports(path):
            target, target_family = floor_and_family(module)
            allowed = MAY_IMPORT[floor] | (MAY_NAME_FOR_TYPES.get(floor, set()) if found.for_types else set())
            if path not in BUNDLE_FILES and module.startswith("hmba_hf.models") and target not in allowed:
                target, target_family = "models", ""
            are_strangers = False
            if path in BUNDLE_FILES and not {floor, target} & SHARED_FLOORS:
                is_extended = family.startswith(f"{target_family}_")
                are_strangers = target_family not in (family, "adapter") and not is_extended
            if floor == target == "tasks":
                are_strangers = family != target_family
            if target not in allowed or are_strangers:
                wrong.append(f"{where(path, found.line)} ({floor}) imports {module}")
    assert not wrong


def test_contributing_has_the_same_table():
    lines = ["| file | imports from the house | never |", "|---|---|---|"]
    for floor in FLOORS:
        imports = ", ".join(shown(name, floor.name) for name in floor.imports) or "nothing"
        lines.append(f"| {shown(floor.name)} | {imports} | {floor.never} |")
    assert "\n".join(lines) in (ROOT / "CONTRIBUTING.md").read_text()


def shown(name, importer=""):
    """Name a floor as CONTRIBUTING.md does."""
    if name == importer and (PACKAGE / name).is_dir():
        return "its own files"
    if name == "models":
        return "public names of `models/`"
    if (PACKAGE / name).is_dir():
        return f"`{name}/`"
    return f"`{name}.py`" if (PACKAGE / f"{name}.py").exists() else f"`{name}_*`"


def test_a_configuration_needs_no_torch():
    configurations = BUNDLE.glob("configuration_*.py")
    assert not [where(path, i.line) for path in configurations for i in imports(path) if i.module.startswith("torch")]


def test_other_rooms_and_examples_take_only_public_names():
    wrong = []
    for path in [*SOURCES, *OUTSIDE]:
        for module, found in house_imports(path):
            same_room = module.split(".")[:2] == MODULES.get(path, "").split(".")[:2]
            if not same_room and any(name.startswith("_") for name in found.names):
                wrong.append(f"{where(path, found.line)} takes a private name from {module}")
    assert not wrong


def test_the_bundle_is_flat():
    assert {path.parent for path in BUNDLE.rglob("*.py")} == {BUNDLE}


def test_a_push_takes_all_code_of_a_checkpoint_along():
    left = {path.name for path in BUNDLE_FILES} - checkpoint_files(BUNDLE).keys()
    assert not left, "their floors are none of those that house.py lets travel"


@pytest.mark.parametrize("path", BUNDLE_FILES, ids=lambda path: path.stem)
def test_a_bundle_file_reaches_its_siblings_in_the_one_way_that_bundles(path):
    siblings = {other.stem for other in BUNDLE_FILES}
    relative = {i.module.removeprefix("hmba_hf.models."): i.line for i in imports(path) if i.level == 1}
    assert relative.keys() <= siblings, "only `from .sibling import name` is found and copied by save_pretrained"
    assert not [i for i in imports(path) if i.level > 1 or (i.level == 0 and i.module.split(".")[0] == "hmba_hf")]
    # transformers looks for imports in the text itself, docstrings included.
    seen = re.findall(r"^\s*(?:from|import)\s+\.+(\S*)", path.read_text(), flags=re.MULTILINE)
    assert set(seen) == relative.keys()


@pytest.mark.parametrize("path", BUNDLE_FILES, ids=lambda path: path.stem)
def test_a_bundle_file_asks_hub_users_for_required_packages_only(path):
    known = REQUIRED | sys.stdlib_module_names
    outside = [i for i in imports(path) if i.level == 0 and not i.guarded and i.module.split(".")[0] not in known]
    assert not [f"{where(path, i.line)} needs {i.module}: put it in a `try:` or make it required" for i in outside]


def test_importing_the_package_imports_no_optional_one():
    # torch's compiler, which transformers imports, takes Triton along where it is installed.
    code = "import sys, torch._dynamo; before = {*sys.modules}; import hmba_hf; "
    code += f"print(*{set(OPTIONAL)} & {{*sys.modules}} - before)"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert fresh.returncode == 0, fresh.stderr
    assert fresh.stdout.split() == []


def test_every_public_function_and_class_says_what_it_is():
    silent = []
    for path in [*SOURCES, *OUTSIDE]:
        for node in ast.parse(path.read_text()).body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and not ast.get_docstring(node):
                silent.append(f"{where(path, node.lineno)} {node.name}")
    assert not silent


def test_nothing_executes_what_it_reads():
    wrong = []
    for path in [*SOURCES, *OUTSIDE]:
        wrong += [where(path, i.line) for i in imports(path) if i.module.split(".")[0] in UNSAFE_MODULES]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called, arguments = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            unsafe_load = called == "torch.load" and arguments.get("weights_only") != "True"
            if called in ("eval", "exec") or unsafe_load or arguments.get("allow_pickle") == "True":
                wrong.append(where(path, node.lineno))
    assert not wrong


def test_no_name_says_nothing():
    wrong = []
    for path in [*SOURCES, *OUTSIDE]:
        for name, line in defined_names(path):
            words = set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))
            if words & BANNED_WORDS or re.search(r"_v\d+$", name):
                wrong.append(f"{where(path, line)} {name}")
    assert not wrong


def test_only_commands_print():
    # The last one shows backends when asked to.
    commands = {"lmms_eval_plugin/__main__.py", "conversion/converter_commands.py", "models/ops_backends.py"}
    wrong = []
    for path in SOURCES:
        if path.relative_to(PACKAGE).as_posix() in commands:
            continue
        if path.parent == PACKAGE / "commands" or path.stem.startswith("convert_"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                wrong.append(where(path, node.lineno))
    assert not wrong, "report through hmba_hf.messages.logger"


def test_a_sentence_that_is_a_constant_stands_in_one_file():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            value = getattr(node, "value", None)
            is_constant = isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Constant)
            if is_constant and isinstance(value.value, str) and " " in value.value:
                places[value.value].append(where(path, node.lineno))
    assert not {sentence: found for sentence, found in places.items() if len(found) > 1}
