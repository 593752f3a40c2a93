"""The table of all environments, and which files are the central part of the suite."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from environments import ENVIRONMENTS, PACKAGES
from journal import read_journal
from known_failures import reason_of_failure

# What depends most on transformers, PyAV, numba, peft and torch; what fails for the most reasons comes first.
CENTRAL = (
    "version_0_1",
    "pipeline_hmba",
    "processing_hmba",
    "video_processing_hmba",
    "lmms_eval_plugin",
    "modeling_hmba",
    "streaming",
    "decoding_video",
    "collator",
    "low_rank",
    "training",
    "bundle",
    "ops_cache_cpu",
    "ops_fused",
    "layers_mamba",
    "modeling_hmba_*",
    "decoding_*",
    "layers_temporal_adapter",
    "joining_hmba",
    "modeling_videomamba",
    "modeling_mambavl",
    "updates",
    "callbacks",
    "pipeline_*",
    "processing_*",
    "video_processing_*",
    "sampling_video",
    "streaming_*",
    "bundle_*",
    "checkpoints",
    "loading*",
    "vlm_bases",
    "hmba_vlm_bases",
    "encoded_samples",
    "dataset_streams",
    "trainer_inherited",
    "modeling_inherited*",
    "ops_*",
    "layers_*",
    "prediction",
    "finetuning",
)
HEAD = """# The suite beside what its users run

    make matrix{words}

Every environment is made anew from the registry with uv, and holds this package with the extras of `make test`.
One process runs the tests, on one thread of a CPU.
"""
LONGEST_REASON = 160


def central_files(source: Path) -> list[str]:
    """Return the central test files of a checkout, each once."""
    files: dict[str, None] = {}
    for pattern in CENTRAL:
        found = sorted(source.glob(f"tests/test_{pattern}.py"))
        if not found:
            raise FileNotFoundError(f"CENTRAL must name test files, got {pattern!r}")
        files |= {path.relative_to(source).as_posix(): None for path in found}
    return [*files]


def latest_results(folder: Path) -> dict[str, dict]:
    """Return the newest result of each environment, in the order of `ENVIRONMENTS`."""
    found: dict[str, dict] = {}
    for path in sorted(folder.glob("*/*.json"), key=lambda path: path.stat().st_mtime):
        result = json.loads(path.read_text())
        record = read_journal(path.with_suffix(".jsonl"))
        result |= {"outcomes": record.outcomes, "collected": record.collected}
        found[result["environment"]] = result
    return {name: found[name] for name in ENVIRONMENTS if name in found}


def failures_of(result: Mapping) -> dict[str, str]:
    """Return the failed tests of one environment, and what each said."""
    outcomes = result.get("outcomes", {})
    return {test: reason for test, (outcome, reason) in outcomes.items() if outcome == "failed"}


def failures_of_ours(result: Mapping) -> list[str]:
    """Return what must be mended here: failed tests without a known reason, and a failed check of the environment."""
    name = result.get("environment", "")
    ours = [test for test in failures_of(result) if reason_of_failure(name, test) is None]
    if "refused" in result:
        ours.append("the installation")
    if not result.get("check", {"passed": True})["passed"]:
        ours.append(ENVIRONMENTS[name].check or "")
    return ours


def write_table(path: Path, results: Path) -> None:
    """Write the table from the stored results."""
    found = latest_results(results)
    choices = sorted({" ".join(result["tests"]) for result in found.values()} - {"tests"})
    parts = [HEAD.format(words=f' TESTS="{choices[0]}"' if choices else "")]
    parts.append(section_of_outcomes(found))
    parts.append(section_of_versions(found))
    parts.append(section_of_remarks(found))
    parts.append(section_of_failures(found))
    parts.append(section_of_skips(found))
    path.write_text("\n".join(parts))


def section_of_outcomes(found: Mapping[str, dict]) -> str:
    """A row for each environment: what was run, and how much of it passed."""
    head = ("environment", "Python", "tests", "passed", "failed", "of them ours", "skipped", "commit", "date")
    rows = []
    for name, environment in ENVIRONMENTS.items():
        row = [f"{name}: {environment.title}", environment.python]
        result = found.get(name)
        if result is None:
            rows.append([*row, "not run", *[""] * 6])
            continue
        counts = Counter(outcome for outcome, _ in result.get("outcomes", {}).values())
        choice = {"tests": "all", "central": "central part"}.get(" ".join(result["tests"]), " ".join(result["tests"]))
        if "refused" in result:
            choice = "not installed"
        elif not result.get("finished"):
            choice += f", interrupted after {len(result['outcomes'])} of {result['collected']}"
        numbers = [counts["passed"], counts["failed"], len(failures_of_ours(result)), counts["skipped"]]
        rows.append([*row, choice, *map(str, numbers), result["commit"], result["date"]])
    return markdown(head, rows)


def section_of_versions(found: Mapping[str, dict]) -> str:
    """A row for each environment: what was installed."""
    rows = []
    for name, result in found.items():
        versions = result.get("versions", {})
        rows.append([name, *(versions.get(package, "") for package in PACKAGES)])
    return f"## What was installed\n\n{markdown(('environment', *PACKAGES), rows)}"


def section_of_remarks(found: Mapping[str, dict]) -> str:
    """What a reader must know of an environment, and whether the other package works beside this one."""
    lines = []
    for name, environment in ENVIRONMENTS.items():
        result = found.get(name, {})
        if environment.remark:
            lines.append(f"- {name}: {environment.remark}")
        if "check" in result:
            verdict = "passed" if result["check"]["passed"] else "FAILED"
            lines.append(f"- {name}, `{environment.check}` {verdict}: {shortened(result['check']['message'])}.")
        if "remark" in result:  # written into a stored result by hand
            lines.append(f"- {name}: {result['remark']}")
        if "refused" in result:
            lines.append(f"- {name} could not be installed:\n\n      " + result["refused"].replace("\n", "\n      "))
    files = ", ".join(f"`test_{pattern}`" for pattern in CENTRAL)
    lines.append(f"- The central part of the suite is {files}.")
    return "## Remarks\n\n" + "\n".join(lines) + "\n"


def section_of_failures(found: Mapping[str, dict]) -> str:
    """Each failed test, what it said, and why if another package is the cause."""
    rows = []
    for name, result in found.items():
        for test, message in failures_of(result).items():
            rows.append([name, f"`{test}`", shortened(message), reason_of_failure(name, test) or "ours"])
    text = markdown(("environment", "test", "message", "cause"), rows) if rows else "None.\n"
    return f"## Failures\n\n{text}"


def section_of_skips(found: Mapping[str, dict]) -> str:
    """Why tests were skipped, and how many for each reason in each environment."""
    reasons: dict[str, Counter] = {}
    for name, result in found.items():
        for outcome, reason in result.get("outcomes", {}).values():
            if outcome == "skipped":
                reasons.setdefault(shortened(reason), Counter())[name] += 1
    rows = [[reason, *(str(counts[name] or "") for name in found)] for reason, counts in sorted(reasons.items())]
    return f"## Skipped\n\n{markdown(('reason', *found), rows)}" if rows else ""


def shortened(text: str) -> str:
    """Return a text that fits a cell."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
