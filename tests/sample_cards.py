"""The cards of docs/samples as a push would write them today: `python tests/sample_cards.py` writes them again.

The dataset card is of a small drawn download in the layout of DRAMA, prepared here. The model card is of a run on the
micro-world, whose files are in docs/samples/run.
"""

import tempfile
from pathlib import Path

from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText

import hmba_hf
from hmba_hf.data.driving.drama import DramaOptions, prepare_drama
from hmba_hf.data.preparing.converting import RunOptions
from hmba_hf.data.preparing.publishing import CardText, write_card
from hmba_hf.hub import CardDetails, recorded_training
from hmba_hf.hub.cards import compose_card
from hmba_hf.hub.stored_runs import StoredRun
from synthetic_downloads import drama_record, write_drama_download

SAMPLES = Path(__file__).parents[1] / "docs" / "samples"
RUN = SAMPLES / "run"
COMMIT = "0123456789abcdef0123456789abcdef01234567"  # stands for the one that a push makes


def drawn_download(folder):
    """Write six clips that become rows and three that do not, in the layout of DRAMA."""
    clips = {f"titan/clip_{number}_000009": range(1, 10) for number in range(6)}
    records = [drama_record(clip, key=9) for clip in clips]
    records += [
        drama_record("titan/clip_6_000009", key=9, Risk="No"),
        drama_record("titan/clip_7_000009", key=9, geometry=[]),
        drama_record("titan/clip_8_000009", key=9),  # without pictures
    ]
    return write_drama_download(folder, records, clips)


def dataset_card():
    """Prepare the drawn download and write its card."""
    with tempfile.TemporaryDirectory() as scratch:
        download = Path(scratch) / "download"
        annotations = drawn_download(download)
        options = DramaOptions(str(download), annotations=str(annotations))
        report = prepare_drama(options, RunOptions(str(Path(scratch) / "prepared"), num_workers=1))
    return write_card(CardText(**report["card"]), report, "org/drama", COMMIT)


def model_card():
    """Write the card of the stored run, whose answers are scored again, as `hmba push` does."""
    assert hmba_hf.HMBAConfig  # registers the model
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(RUN))
    details = CardDetails(
        license="apache-2.0", training=recorded_training(RUN), picture=Image.open(SAMPLES / "example.png")
    )
    return str(compose_card(model, details, [StoredRun(RUN)], "org/hmba-micro", COMMIT))


CARDS = {"dataset_card.md": dataset_card, "model_card.md": model_card}


def main():
    """Write the cards."""
    for name, write in CARDS.items():
        (SAMPLES / name).write_text(write(), encoding="utf-8")
        print(f"written: {SAMPLES / name}")


if __name__ == "__main__":
    main()
