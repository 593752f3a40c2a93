"""`hmba VERB`: every command of the package, from one program."""

import importlib
import sys
from typing import Annotated, NamedTuple

import typer

import hmba_hf

from .messages import run_command, show_escapes

UNTOUCHED = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
FINETUNING = {
    "answering": "finetune",
    "classification": "finetune_classification",
    "questions": "finetune_questions",
    "retrieval": "finetune_retrieval",
}

app = typer.Typer(
    name="hmba",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Video models on Mamba: H-MBA, VideoMamba and MambaVL. `hmba VERB --help` shows the options of a verb. "
    "HMBA_TRACEBACK=1 in the environment shows the traceback of an error.",
)
prepare = typer.Typer(no_args_is_help=True, help="Make a dataset from raw downloads.")
convert = typer.Typer(no_args_is_help=True, help="Convert a checkpoint of another code, and back.")


class Verb(NamedTuple):
    """A command and its place.

    Args:
        module: of `hmba_hf.commands` or `hmba_hf.conversion`, whose `main` reads the words behind the verb.
        help: one sentence.
        launched: when Accelerate starts it: `"always"`, `"on demand"`, by one of its options, or `"never"`.
    """

    module: str
    help: str
    launched: str = "never"


VERBS = {
    "demo": Verb("commands.demo", "Fine-tune on a drawn world, answer about clips, write a report."),
    "describe": Verb("commands.describe", "Ask about a moment of a video and draw the answer."),
    "stream": Verb("commands.stream", "Watch a drive as it happens and ask about it every few seconds."),
    "app": Verb("commands.app", "Open a live page: choose a clip, ask, see where the query looked."),
    "serve": Verb("commands.serve", "Answer chat completions in OpenAI's form, and questions about cameras."),
    "finetune": Verb("commands.finetune", "Fine-tune a model: answering, or the task named first.", "always"),
    "pretrain": Verb("commands.pretrain", "Pre-train VideoMamba without labels, against a CLIP.", "always"),
    "cache-features": Verb("commands.cache_features", "Keep the features of a frozen tower on disk.", "always"),
    "predict": Verb("commands.predict", "Predict for every clip of a split.", "always"),
    "evaluate": Verb("commands.evaluate", "Score predictions, or make and score them.", "on demand"),
    "push": Verb("commands.push", "Push a model to the Hub with its code and card."),
    "study": Verb("commands.study", "Ablate the adapter on the drawn world."),
    "backends": Verb("commands.backends", "Show which kernels run here, and why not others."),
    "env": Verb("commands.env", "Show versions, devices and backends for a bug report."),
}
PREPARING = {
    "drama": Verb("commands.prepare_drama", "DRAMA: the object at risk in a drive."),
    "bddx": Verb("commands.prepare_bddx", "BDD-X: what the ego car does and why."),
    "actions": Verb("commands.prepare_actions", "Videos with a class each, such as Kinetics."),
    "epic-kitchens": Verb("commands.prepare_epic_kitchens", "EPIC-KITCHENS-100, with questions."),
}
CONVERTING = {
    "hmba": Verb("conversion.convert_hmba", "Shikra and H-MBA training checkpoints."),
    "llava": Verb("conversion.convert_llava", "LLaVA, with a new adapter."),
    "videomamba": Verb("conversion.convert_videomamba", "VideoMamba, of every published kind."),
    "mambavl": Verb("conversion.convert_mambavl", "MambaVL, with or without its video model."),
}


def show_version(is_wanted: bool) -> None:
    """Print the version and end."""
    if is_wanted:
        typer.echo(f"hmba-hf {hmba_hf.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Take the options before a verb."""


def run(verb: Verb, words: list[str]) -> None:
    """Hand the words behind a verb to its module, in this process or by Accelerate's launcher."""
    show_escapes()
    module = f"hmba_hf.{verb.module}"
    if verb.module == "commands.finetune" and words and not words[0].startswith("-"):
        task = words[0]
        if task not in FINETUNING:
            raise typer.BadParameter(f"the task must be one of {', '.join(FINETUNING)}, got {task!r}")
        module = f"hmba_hf.commands.{FINETUNING[task]}"
        words = words[1:]
    if verb.launched != "never" and not {"-h", "--help"}.intersection(words):
        from .commands.launching import launch, split_words

        launcher, words = split_words(words)
        if launcher or verb.launched == "always":
            sys.exit(launch(module, launcher, words))
    run_command(lambda: importlib.import_module(module).main(words))


def add(group: typer.Typer, name: str, verb: Verb) -> None:
    """Add a verb, whose own parser reads all of its words, `--help` among them."""

    def command(context: typer.Context) -> None:
        run(verb, context.args)

    group.command(name, help=verb.help, context_settings=UNTOUCHED, add_help_option=False)(command)


for _name, _verb in VERBS.items():
    add(app, _name, _verb)
for _name, _verb in PREPARING.items():
    add(prepare, _name, _verb)
for _name, _verb in CONVERTING.items():
    add(convert, _name, _verb)
app.add_typer(prepare, name="prepare")
app.add_typer(convert, name="convert")


def main() -> None:
    """Run the program."""
    app()


if __name__ == "__main__":
    main()
