"""How to install this package, or what one of its extras adds to it."""

import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

NAME = "hmba-hf"
# What a release sets: the name on the package index, the URL of a wheel, or a repository as `git+https://...`.
RELEASE: str | None = None


def install_command(extra: str | None = None) -> str:
    """Return the command that installs an extra, or this package without one.

    An unpublished name is never advised: without a release, the command has the requirements of the extra.

    Args:
        extra: of pyproject.toml.

    Raises:
        ValueError: if there is no such extra, and no release.
    """
    if RELEASE is None:
        wanted = _requirements(extra)
    else:
        wanted = [_released(RELEASE, extra)]
    return shlex.join(["pip", "install", *wanted])


def missing_extra(who_needs: str, extra: str) -> ImportError:
    """Return the error of something that lacks an extra, with the command that installs it.

    Args:
        who_needs: the beginning of the sentence, such as "`hmba serve` needs".
        extra: of pyproject.toml.
    """
    return ImportError(f"{who_needs} `{install_command(extra)}`")


def missing_package(who_needs: str, package: str) -> ImportError:
    """Return the same of a package that is in no extra, such as one that asks for other versions of ours."""
    return ImportError(f"{who_needs} `pip install {package}`")


def how_to_install(extra: str | None = None) -> str:
    """Return the command that installs this package, or in words where it comes from while there is no release."""
    if RELEASE is None:
        return f"{NAME} is on no package index: its authors give it as a wheel or as source"
    return install_command(extra)


def declared_packages(without: Sequence[str] = ()) -> list[str]:
    """Return the names of the packages that this one needs, or that its extras add.

    Args:
        without: extras whose packages are left out.
    """
    names = []
    for line in _declared():
        requirement = Requirement(line)
        if requirement.name == NAME or any(_holds(requirement, extra) for extra in without if requirement.marker):
            continue
        names.append(requirement.name)
    return list(dict.fromkeys(names))


def _released(release: str, extra: str | None) -> str:
    named = NAME if extra is None else f"{NAME}[{extra}]"
    if "://" in release:
        return f"{named} @ {release}"
    return named


def _holds(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _requirements(extra: str | None) -> list[str]:
    """Return what the extra adds to the package, or what the package needs."""
    found = []
    for line in _declared():
        requirement = Requirement(line)
        in_base = _holds(requirement, extra="")
        is_wanted = in_base if extra is None else not in_base and _holds(requirement, extra)
        if not is_wanted:
            continue
        if requirement.name == NAME:  # an extra made of others
            for other in sorted(requirement.extras):
                found += _requirements(other)
            continue
        requirement.marker = None
        found.append(str(requirement))
    if not found:
        raise ValueError(f"an extra must be one of pyproject.toml for this machine, got {extra!r}")
    return list(dict.fromkeys(found))


def _declared() -> list[str]:
    """Return the requirements of the installed package, or of the source where it runs without an installation."""
    try:
        return requires(NAME) or []
    except PackageNotFoundError:
        import tomllib

        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    declared = list(project["dependencies"])
    for extra, lines in project["optional-dependencies"].items():
        for line in lines:
            requirement, _, marker = line.partition(";")
            markers = [f"extra == '{extra}'"]
            if marker:
                markers.append(f"({marker})")
            declared.append(f"{requirement}; {' and '.join(markers)}")
    return declared
