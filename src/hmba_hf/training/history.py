"""How loss and metrics of a run went, as numbers and pictures."""

from pathlib import Path
from typing import Any

from transformers import Trainer

from ..data.bad_samples import BadSamples
from ..files import write_json
from ..messages import logger
from ..visualization import plot_curves, plot_panels

_TIMINGS = ("_runtime", "_per_second", "_preparation_time")


def save_history(trainer: Trainer, arguments: dict[str, Any], bad: BadSamples) -> None:
    """Write how loss and metrics went, as numbers and, with matplotlib, as pictures, with the options that made it."""
    loss: dict[float, float] = {}
    metrics: dict[str, dict[float, float]] = {}
    for entry in trainer.state.log_history:
        for name, value in entry.items():
            if name == "loss":
                loss[entry["step"]] = value
            elif name.startswith("eval_") and not name.endswith(_TIMINGS):
                metrics.setdefault(name.removeprefix("eval_"), {})[entry["step"]] = value
    folder, skipped = Path(str(trainer.args.output_dir)), bad.skipped()
    losses, curves = list(loss.items()), {name: list(points.items()) for name, points in metrics.items()}
    record = {"arguments": arguments, "loss": losses, "metrics": curves, "bad_samples": skipped}
    write_json(folder / "history.json", record)
    if skipped:
        logger.info(
            f"{len(skipped)} samples could not be read and were left out; see bad_samples in {folder}/history.json"
        )
    try:
        plot_curves({"loss": losses}, "Training loss").save(folder / "loss.png")
        if curves:
            plot_panels(curves, "Evaluation").save(folder / "metrics.png")
    except ImportError as error:
        logger.info(f"no picture of the loss: {error}")
