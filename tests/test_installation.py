"""How messages and cards say to install something: never a name that is not published."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hmba_hf import installation
from hmba_hf.hub.cards import CardDetails, compose_card
from hmba_hf.installation import how_to_install, install_command
from tiny_models import tiny_model

SOURCE = Path(installation.__file__).parent
PROJECT = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
WHEEL = "https://example.org/hmba_hf-0.2.0-py3-none-any.whl"


def declare(monkeypatch, *lines):
    monkeypatch.setattr(installation, "requires", lambda name: list(lines))


def test_without_a_release_the_command_has_the_packages_of_the_extra(monkeypatch):
    declare(monkeypatch, "torch>=2", "datasets>=4; extra == 'train'", 'peft ; extra == "train"', "x ; extra == 'y'")
    assert install_command("train") == "pip install 'datasets>=4' peft"
    assert install_command() == "pip install 'torch>=2'"


def test_packages_of_other_machines_are_left_out(monkeypatch):
    declare(monkeypatch, "a ; platform_system == 'Nowhere' and extra == 'e'", "b ; extra == 'e'")
    assert install_command("e") == "pip install b"


def test_an_extra_of_extras_has_the_packages_of_each_once(monkeypatch):
    declare(monkeypatch, "a ; extra == 'e'", "a ; extra == 'f'", "b ; extra == 'f'", "hmba-hf[e,f] ; extra == 'all'")
    assert install_command("all") == "pip install a b"


def test_an_extra_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="an extra must be one of pyproject.toml for this machine, got 'trains'"):
        install_command("trains")


def test_a_package_that_runs_without_an_installation_reads_the_requirements_of_its_source(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(installation, "requires", absent)
    for extra, lines in PROJECT["optional-dependencies"].items():
        command = install_command(extra)
        for line in lines:
            name = re.match(r"[\w.-]+", line).group()
            assert name == "hmba-hf" or name in command


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("hmba-hf", "pip install 'hmba-hf[train]'"),
        (WHEEL, f"pip install 'hmba-hf[train] @ {WHEEL}'"),
        ("git+https://example.org/hmba", "pip install 'hmba-hf[train] @ git+https://example.org/hmba'"),
    ],
)
def test_a_release_is_installed_with_its_extra(monkeypatch, release, expected):
    monkeypatch.setattr(installation, "RELEASE", release)
    assert install_command("train") == how_to_install("train") == expected
    assert install_command() == expected.replace("[train]", "").replace("'hmba-hf'", "hmba-hf")


def test_every_message_and_card_reads_the_command_from_one_place():
    used = set()
    for path in [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.md")]:
        text = path.read_text()
        assert path.name == "installation.py" or not re.search(r"pip install[^\n]*hmba", text), path
        used.update(re.findall(r"(?:install_command\(|missing_extra\([^)]*, )['\"]([\w-]+)", text))
        assert path.name == "installation.py" or not re.search(r"ImportError\([^\n]*install_command", text), path
    assert used and used <= PROJECT["optional-dependencies"].keys()


def test_a_card_advises_the_release_or_none(monkeypatch):
    model = tiny_model()
    card = compose_card(model, CardDetails()).content
    assert "pip install" not in card and "trust_remote_code=True" in card
    assert "import hmba_hf  # hmba-hf is on no package index: its authors give it as a wheel or as source\n" in card
    monkeypatch.setattr(installation, "RELEASE", "hmba-hf")
    assert "import hmba_hf  # pip install hmba-hf\n" in compose_card(model, CardDetails()).content
