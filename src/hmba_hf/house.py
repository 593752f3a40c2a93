"""Who may import whom: one list for the tests, for CONTRIBUTING.md, and for what travels with a checkpoint."""

from typing import NamedTuple


class Floor(NamedTuple):
    """Some files of the package, and what they may import from it.

    Attributes:
        name: a prefix of file names in `models/`, or a folder or file beside it.
        imports: names of floors; `models` stands for the public names of all files in `models/`.
        never: what they must not know, in words.
        travels_with: `"model"` or `"processor"`, in whose checkpoint the files are.
        families: whether their files belong to families, of which each sees its own files, those of `adapter`, and
            those of the family that its name extends, as `hmba_vlm` does `hmba`.
    """

    name: str
    imports: tuple[str, ...]
    never: str = ""
    travels_with: str | None = None
    families: bool = False


FLOORS = (
    Floor("ops", ("ops",), "configurations, modules", travels_with="model"),
    Floor("layers", ("ops", "layers"), "configurations: a layer takes plain keywords", travels_with="model"),
    Floor("loading", ("loading",), "layers, models", travels_with="model"),
    Floor("configuration", ("loading", "configuration"), "torch", travels_with="model", families=True),
    Floor("outputs", ("layers", "loading"), travels_with="model", families=True),
    Floor(
        "joining",
        ("layers", "loading", "configuration", "joining"),
        "models: it is handed the class",
        travels_with="model",
        families=True,
    ),
    Floor(
        "pretrained",
        ("layers", "loading", "configuration", "joining", "pretrained"),
        "ops",
        travels_with="model",
        families=True,
    ),
    Floor("encoding", ("layers", "loading", "configuration"), "ops, models", travels_with="model", families=True),
    Floor(
        "modeling",
        ("layers", "loading", "configuration", "outputs", "joining", "pretrained", "encoding"),
        "ops, another family",
        travels_with="model",
        families=True,
    ),
    Floor(
        "retrieving",
        ("layers", "loading", "configuration", "outputs", "pretrained", "modeling"),
        "ops, another family",
        travels_with="model",
        families=True,
    ),
    Floor(
        "bundling",
        ("loading", "configuration", "modeling", "bundling"),
        "weights, files: families meet here alone, for a checkpoint with a tower of another one",
        travels_with="model",
    ),
    Floor("decoding", ("decoding", "sampling"), "models", travels_with="processor"),
    Floor("sampling", ("sampling",), "models", travels_with="processor"),
    Floor("parsing", ("parsing",), "models", travels_with="processor"),
    Floor("reading", ("loading", "decoding", "sampling", "parsing", "reading"), "models", travels_with="processor"),
    Floor("batching", ("batching",), "models", travels_with="processor", families=True),
    Floor("prompting", (), "models", travels_with="processor", families=True),
    Floor(
        "video_processing",
        ("loading", "decoding", "sampling", "reading"),
        "models",
        travels_with="processor",
        families=True,
    ),
    Floor(
        "processing",
        ("loading", "reading", "parsing", "batching", "prompting", "video_processing", "processing"),
        "models",
        travels_with="processor",
        families=True,
    ),
    Floor("pipeline", ("loading", "processing"), "models", travels_with="processor", families=True),
    Floor("files", (), "models"),
    Floor("digests", (), "models"),
    Floor("families", ("files", "weight_files"), "models, tasks: it has their names"),
    Floor("house", (), "models"),
    Floor("hosts", (), "models"),
    Floor("installation", (), "models"),
    Floor("late_imports", (), "models"),
    Floor("limits", (), "models"),
    Floor("messages", ("files",), "models"),
    Floor("repositories", (), "models"),
    Floor("weight_files", (), "models"),
    Floor("quantisation", ("families", "installation"), "models"),
    Floor("metrics", ("metrics", "installation"), "everything else"),
    Floor(
        "data",
        ("data", "decoding", "sampling", "parsing", "files", "digests", "installation", "messages", "repositories"),
        "the rest of `models/`, `metrics/`, tasks",
    ),
    Floor("visualization", ("installation",), "models"),
    Floor("flops", ("ops",), "models"),
    Floor("streaming", ("streaming", "models")),
    Floor("registration", ("streaming", "hub", "models"), "tasks"),
    Floor(
        "evaluation",
        (
            "evaluation",
            "data",
            "metrics",
            "families",
            "files",
            "digests",
            "messages",
            "quantisation",
            "repositories",
        ),
        "models, tasks",
    ),
    Floor(
        "hub",
        (
            "hub",
            "models",
            "evaluation",
            "metrics",
            "families",
            "house",
            "digests",
            "installation",
            "quantisation",
            "repositories",
            "weight_files",
        ),
        "`data/`, `training/`, tasks",
    ),
    Floor(
        "training",
        (
            "training",
            "hub",
            "loading",
            "data",
            "families",
            "files",
            "digests",
            "installation",
            "messages",
            "quantisation",
            "repositories",
            "visualization",
            "weight_files",
        ),
        "models, `evaluation/`, tasks",
    ),
    Floor(
        "tasks",
        (
            "tasks",
            "training",
            "evaluation",
            "hub",
            "models",
            "data",
            "metrics",
            "families",
            "messages",
            "files",
            "digests",
            "flops",
            "visualization",
        ),
        "another task",
        families=True,
    ),
    Floor(
        "lmms_eval_plugin",
        (
            "lmms_eval_plugin",
            "tasks",
            "evaluation",
            "models",
            "data",
            "families",
            "installation",
            "messages",
            "quantisation",
        ),
        "`training/`",
    ),
    Floor(
        "conversion",
        ("conversion", "hub", "models", "data", "families", "files", "digests", "messages", "weight_files"),
        "tasks",
    ),
    Floor(
        "serving",
        ("serving", "streaming", "models", "hosts", "installation", "limits", "messages"),
        "tasks, `data/`, `training/`",
    ),
    Floor(
        "app",
        ("app", "streaming", "models", "installation", "limits", "messages", "visualization"),
        "tasks, `data/`, `training/`",
    ),
    Floor(
        "integrations",
        ("integrations", "registration", "models", "installation"),
        "the programs' packages, but inside a `try:`",
    ),
    Floor(
        "commands",
        (
            "commands",
            "tasks",
            "training",
            "streaming",
            "serving",
            "app",
            "evaluation",
            "hub",
            "models",
            "data",
            "metrics",
            "families",
            "files",
            "hosts",
            "installation",
            "messages",
            "quantisation",
            "visualization",
        ),
    ),
    Floor("cli", ("commands", "messages", "models")),
    Floor("__main__", ("cli",)),
)


def code_files(travels_with: str) -> tuple[str, ...]:
    """Return patterns of the files of code in the checkpoint of a `"model"` or a `"processor"`, or of both."""
    names = [floor.name for floor in FLOORS if floor.travels_with == travels_with]
    return tuple(f"{name}_*.py" for name in names)
