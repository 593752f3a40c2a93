"""Small trees in the layouts of the raw downloads of BDD-X and DRAMA, with the dirt that the real ones have."""

import csv
import json

import numpy as np
from PIL import Image

from numbered_videos import numbered_video

CELLS = ("start", "end", "action", "justification")
BDDX_HEADER = ["Input.Video", *(f"Answer.{number}{cell}" for number in range(1, 16) for cell in CELLS)]
BDDX_SECONDS, BDDX_RATE = 6, 10
S3 = "https://s3-us-west-2.amazonaws.com"


def bddx_row(video_id, *answers):
    """A row of the CSV file; an answer is `(start, end, action, justification)`."""
    url = f"{S3}/sq8geewpqu/train/{video_id}.mov" if video_id else ""
    cells = [url, *(str(cell) for answer in answers for cell in answer)]
    return cells + [""] * (len(BDDX_HEADER) - len(cells))


BDDX_ROWS = [
    bddx_row(
        "aaaaaaaa-00000001", (0, 2, "The car is stopped.", "because it waits,\nfor long"), (2, 4, "It goes", "so")
    ),
    bddx_row(""),
    bddx_row("aaaaaaaa-00000002"),  # a video and no answers
    bddx_row("aaaaaaaa-00000003", ("X", "", "", "")),
    bddx_row("aaaaaaaa-00000001", (1, 3, "The car stands", "since it is told to")),  # annotated twice
    bddx_row(
        "aaaaaaaa-00000004",
        (0, 1, " The car turns ", "as it must"),  # one second, stray spaces
        (3, 1, "The car reverses time", "because of a typing error"),  # ends before it starts
        (3, 3, "The car brakes", "for a dog"),  # no second
        (4, 222, "The car parks", "to end"),  # beyond the video
        ("", 5, "No start", "as such"),
        (4, "", "No end", "as such"),
        (4, 5, "", "no action"),
        (4, 5, "No justification", ""),
        ("ten", 12, "The car goes", "because of words"),
        (30, 33, "The car flies", "after its video"),
    ),
    bddx_row("aaaaaaaa-00000005", (0, 2, "A missing video", "because it was lost")),
    bddx_row("aaaaaaaa-00000006", (0, 2, "An unreadable video", "because it is text")),
    bddx_row("aaaaaaaa-00000007", (0, 1, "In no split", "because it is not listed")),
    bddx_row("", (0, 1, "No video", "because there is none")),
    bddx_row("aaaaaaaa-00000008", (0, 2, "In validation", "because"), (2, 5, "Still", "because")),
    bddx_row("aaaaaaaa-00000009", (0, 3, "In test", "because")),
]
BDDX_LISTS = {
    "train": ["1_aaaaaaaa-00000001", "2_aaaaaaaa-00000001", "3_aaaaaaaa-00000004", "4_aaaaaaaa-00000005"],
    "val": ["7_aaaaaaaa-00000008"],
    "test": ["5_aaaaaaaa-00000006", "8_aaaaaaaa-00000009"],
}


def write_bddx_annotations(folder, rows=BDDX_ROWS, lists=BDDX_LISTS):
    """Write the CSV file with CRLF and the lists of the splits; return the path of the CSV file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "BDD-X-Annotations_v1.csv"
    with open(path, "w", newline="", encoding="ascii") as file:
        csv.writer(file, lineterminator="\r\n").writerows([BDDX_HEADER, *rows])
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return path


def write_bddx_download(folder):
    """Write annotations and videos of `BDDX_SECONDS` whose frames bear their numbers, the fifth missing."""
    annotations = write_bddx_annotations(folder)
    videos = folder / "videos" / "train"
    videos.mkdir(parents=True)
    content = numbered_video(BDDX_SECONDS * BDDX_RATE + 1, rate=BDDX_RATE, container="mov")
    for number in (1, 2, 3, 4, 7, 8, 9):
        (videos / f"aaaaaaaa-0000000{number}.mov").write_bytes(content)
    (videos / "aaaaaaaa-00000006.mov").write_bytes(b"This is no video.")
    return annotations


def drama_record(clip, key, **changes):
    """A raw record with all known keys: a risk with a box of 8 by 6 pixels at (4, 3)."""
    place = f"{S3}/hrius.scaleapi/data/drama/combined/{clip}"
    return {
        "s3_fileUrl": f"{place}/frame_{key:06d}.png",
        "s3_instructionReference": f"{place}/movie.gif",
        "Risk": "Yes",
        "Caption": "A black car is driving ahead of the ego car.",
        "geometry": [[4, 3], [12, 3], [12, 9], [4, 9]],
        "Suggestions (to the ego car)": " (must)  Stop",
        "Intention of Ego-vehicle": "Going straight",
        **changes,
    }


DRAMA_SIZE = (32, 24)


def write_drama_clip(folder, clip, numbers, size=DRAMA_SIZE):
    """Write the frames of a clip, the red of each its number, with the optical flow and the film beside them."""
    place = folder / "combined" / clip
    place.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.new("RGB", size, (number % 256, 90, 160)).save(place / f"frame_{number:06d}.png")
        Image.new("RGB", size).save(place / f"flow_{number:06d}.png")
    (place / "movie.gif").write_bytes(b"GIF89a")


def write_drama_download(folder, records, clips):
    """Write `integrated_output_v2.json` and the frames of each clip in `clips`; return the path of the former."""
    for clip, numbers in clips.items():
        write_drama_clip(folder, clip, numbers)
    path = folder / "integrated_output_v2.json"
    path.write_text(json.dumps(records))
    return path


def write_pictures(folder, name, count, size=(32, 24)):
    """Write the frames of a clip in the released layout, the red of each its place, the current one last."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in range(1, count + 1):
        file = f"{name}.jpg" if place == count else f"{name}_p{place}.jpg"
        Image.new("RGB", size, (25 * place, 0, 0)).save(folder / file, quality=95)


def folder_bytes(folder):
    """Every file of a prepared dataset by its name; what a run keeps for itself is left out."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".preparing" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def mean_red(picture):
    """The red that a picture shows on average."""
    return float(np.asarray(picture)[..., 0].mean())
