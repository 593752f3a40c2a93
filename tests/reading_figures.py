"""Print how dense the code reads: a picture of where it stands, not a gate.

    python tests/reading_figures.py [FOLDER ...]

For each folder (`src`, `conversion` and `examples` if none is named) it counts, in 1,000 lines of code, what makes a
line say more than one thing, and measures how long functions and files are and how many public names have a docstring.
Lines of code are those that are neither empty nor comment nor docstring.
"""

import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "conversion", "examples")
MANY_ARGUMENTS = 6
LONG_FUNCTION = 60
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)


class Figures(NamedTuple):
    """What is counted in some files."""

    code_lines: int
    tuple_assignments: int
    conditional_expressions: int
    comprehensions: int
    long_calls: int
    function_lengths: list[int]
    public_names: int
    documented_names: int


def docstring_lines(tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node) is not None:
            text = node.body[0]
            lines.update(range(text.lineno, text.end_lineno + 1))
    return lines


def code_lines(source: str, tree: ast.Module) -> int:
    """Count the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstring_lines(tree))


def public_definitions(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the public functions and classes of a file, and the public methods of these classes."""
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, *FUNCTIONS)) or node.name.startswith("_"):
            continue
        yield node
        if isinstance(node, ast.ClassDef):
            methods = [child for child in node.body if isinstance(child, FUNCTIONS)]
            yield from (method for method in methods if not method.name.startswith("_"))


def packs_several(node: ast.AST) -> bool:
    """Whether one line assigns several values to several names."""
    if not isinstance(node, ast.Assign):
        return False
    return isinstance(node.value, ast.Tuple) and any(isinstance(target, ast.Tuple) for target in node.targets)


def figures(paths: list[Path]) -> Figures:
    """Count what some files hold."""
    lines = 0
    nodes: list[ast.AST] = []
    definitions: list[ast.AST] = []
    for path in paths:
        source = path.read_text()
        tree = ast.parse(source)
        lines += code_lines(source, tree)
        nodes += ast.walk(tree)
        definitions += public_definitions(tree)
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    functions = [node for node in nodes if isinstance(node, FUNCTIONS)]
    return Figures(
        code_lines=lines,
        tuple_assignments=sum(packs_several(node) for node in nodes),
        conditional_expressions=sum(isinstance(node, ast.IfExp) for node in nodes),
        comprehensions=sum(isinstance(node, COMPREHENSIONS) for node in nodes),
        long_calls=sum(len(call.args) >= MANY_ARGUMENTS for call in calls),
        function_lengths=sorted(node.end_lineno - node.lineno + 1 for node in functions),
        public_names=len(definitions),
        documented_names=sum(ast.get_docstring(node) is not None for node in definitions),
    )


def row(name: str, found: Figures) -> str:
    """Write the figures of a folder as a row of the table."""
    lengths = found.function_lengths
    thousands = found.code_lines / 1000
    return " | ".join(
        [
            f"| {name}",
            f"{found.code_lines:,}",
            f"{found.tuple_assignments / thousands:.1f}",
            f"{found.conditional_expressions / thousands:.1f}",
            f"{found.comprehensions / thousands:.1f}",
            f"{found.long_calls / thousands:.1f}",
            f"{statistics.median(lengths):.0f} / {lengths[len(lengths) * 9 // 10]} / {lengths[-1]}",
            f"{sum(length > LONG_FUNCTION for length in lengths)}",
            f"{found.documented_names / found.public_names:.0%} |",
        ]
    )


def main() -> None:
    """Print the table."""
    folders = sys.argv[1:] or FOLDERS
    files = {folder: sorted((ROOT / folder).rglob("*.py")) for folder in folders}
    print(
        "| | lines of code | tuple assignments | conditional expressions | comprehensions | calls with "
        f"{MANY_ARGUMENTS} or more positional arguments | function lines, median / p90 / longest | "
        f"functions > {LONG_FUNCTION} lines | public names with docstring |"
    )
    print("|" + "---|" * 9)
    for folder, paths in files.items():
        print(row(folder, figures(paths)))
    print(row("together", figures([path for paths in files.values() for path in paths])))


if __name__ == "__main__":
    main()
