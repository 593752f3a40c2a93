"""What people and tools look for beside the code: citation, security, release, dev container, metadata."""

import ast
import json
import re
import tomllib

import yaml

import hmba_hf
from documented import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
PAPERS = {"2501.04302", "2403.06977", "2409.11513"}
TEST_NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def read_workflow():
    return yaml.safe_load((ROOT / "docs" / "release" / "publish.yml").read_text())


def steps_of(job):
    return read_workflow()["jobs"][job]["steps"]


def test_the_citation_is_of_this_version_and_licence():
    assert CITATION["version"] == hmba_hf.__version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["title"].startswith(PROJECT["name"])
    assert CITATION["authors"] and CITATION["message"]


def test_the_citation_refers_to_the_papers():
    found = {reference["url"].rpartition("/")[2] for reference in CITATION["references"]}
    assert found == PAPERS
    for reference in CITATION["references"]:
        assert reference["title"] in (ROOT / "README.md").read_text()
        assert all(set(author) == {"given-names", "family-names"} for author in reference["authors"])


def test_the_addresses_of_the_project_are_known_ones():
    papers = {address.rpartition("/")[2] for address in PROJECT["urls"].values() if "arxiv.org" in address}
    assert papers == PAPERS
    for address in PROJECT["urls"].values():
        assert address.startswith("https://")


def test_every_test_that_security_names_exists():
    text = (ROOT / "SECURITY.md").read_text()
    named = TEST_NAME.findall(text)
    assert len(named) == text.count("::")
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_every_promise_of_security_has_a_test():
    text = (ROOT / "SECURITY.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows
    for row in rows:
        assert TEST_NAME.search(row), row


def sets_trust(node):
    """Whether a node of a program gives `trust_remote_code` a value: as a keyword, in a dictionary, in a field."""
    if isinstance(node, ast.keyword):
        return node.arg == "trust_remote_code"
    if isinstance(node, ast.Dict):
        return "trust_remote_code" in [key.value for key in node.keys if isinstance(key, ast.Constant)]
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        return ast.unparse(node.slice) == "'trust_remote_code'"
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "trust_remote_code"


def test_nothing_trusts_the_code_of_others():
    wrong = []
    for folder in ("src", "examples", "conversion", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if sets_trust(node):
                    wrong.append(f"{path}:{ast.unparse(node)}")
    assert not wrong


def test_a_release_is_published_by_trust_and_without_a_token():
    workflow = read_workflow()
    assert workflow["permissions"] == {}
    assert workflow["jobs"]["build"]["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow["jobs"]["publish"]["needs"] == "build"
    assert "secrets" not in (ROOT / "docs" / "release" / "publish.yml").read_text()
    used = [step["uses"] for step in steps_of("publish")]
    assert used[-1].startswith("pypa/gh-action-pypi-publish@")


def test_the_actions_of_a_release_are_pinned_by_version():
    for job in ("build", "publish"):
        for step in steps_of(job):
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"])


def test_a_release_builds_checks_and_starts_the_wheel_before_it_is_published():
    commands = "\n".join(step.get("run", "") for step in steps_of("build"))
    wanted = ["python -m build", "twine check --strict", "pip install dist/*.whl", "hmba env", '= "$TAG"']
    places = [commands.index(word) for word in wanted]
    assert places == sorted(places)


def test_the_dev_container_builds_by_make():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    target = container["postCreateCommand"].removeprefix("make ")
    makefile = (ROOT / "Makefile").read_text()
    assert target == ".venv/.installed"
    assert "VENV := .venv\n" in makefile and "INSTALLED := $(VENV)/.installed\n" in makefile
    version = container["image"].rpartition(":")[2]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_the_release_checklist_names_what_exists():
    text = (ROOT / "RELEASING.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name, file in (("__version__", "src/hmba_hf/__init__.py"), ("RELEASE", "src/hmba_hf/installation.py")):
        assert f"Set `{name}` in `{file}`" in text
        assert re.search(rf"^{name}\b.* = ", (ROOT / file).read_text(), re.MULTILINE)


def test_links_of_the_pages_beside_the_readme_lead_to_files():
    for name in ("RELEASING.md", "SECURITY.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
            assert (ROOT / target).exists(), f"{name} links to {target}, which does not exist"
