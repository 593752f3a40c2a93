"""Small trees in the layouts of raw downloads of BDD-X, DRAMA and EPIC-KITCHENS-100, with the dirt of real ones."""

import csv
import json
from fractions import Fraction

import numpy as np
from PIL import Image

from numbered_videos import numbered_video

CELLS = ("start", "end", "action", "justification")
BDDX_HEADER = ["Input.Video", *(f"Answer.{number}{cell}" for number in range(1, 16) for cell in CELLS)]
BDDX_SECONDS, BDDX_RATE = 6, 10
S3 = "https://s3-us-west-2.amazonaws.com"
EPIC_COLUMNS = (
    "narration_id participant_id video_id narration_timestamp start_timestamp stop_timestamp start_frame stop_frame "
    "narration verb verb_class noun noun_class all_nouns all_noun_classes"
).split()
EPIC_RATES = {"P01_11": Fraction(25), "P02_101": Fraction(60000, 1001)}
EPIC_SECONDS = {"P01_11": 8, "P02_101": 6}


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


def _clock(seconds):
    return f"00:00:{seconds:05.2f}"


def epic_row(name, start, stop, verb="take", verb_class=0, noun="plate", noun_class=2, **changes):
    """A row of an official list of EPIC-KITCHENS-100; its frame numbers belong to no video."""
    video = name.rpartition("_")[0]
    row = {
        "narration_id": name,
        "participant_id": video.partition("_")[0],
        "video_id": video,
        "narration_timestamp": _clock(start),
        "start_timestamp": _clock(start),
        "stop_timestamp": _clock(stop),
        "start_frame": 99990,
        "stop_frame": 99999,
        "narration": f"{verb} {noun}",
        "verb": verb,
        "verb_class": verb_class,
        "noun": noun,
        "noun_class": noun_class,
        "all_nouns": f"['{noun}']",
        "all_noun_classes": f"[{noun_class}]",
    }
    return {**row, **changes}


def write_epic_list(path, rows, columns=EPIC_COLUMNS):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def write_epic_download(folder):
    """Write two videos with numbered frames, at 25 and at 59.94 a second, and the lists about them."""
    for name, rate in EPIC_RATES.items():
        path = folder / "epic" / name.partition("_")[0] / f"{name}.MP4"
        path.parent.mkdir(parents=True)
        path.write_bytes(numbered_video(round(rate * EPIC_SECONDS[name]), rate=rate))
    train = [
        epic_row("P01_11_0", 1.56, 2.45),
        epic_row("P01_11_1", 3.0, 3.0, "put-down", 1, "board:chopping", 1),
        epic_row("P02_101_0", 2.35, 4.1),
        epic_row("P02_101_1", 5.5, 9.0, "put", 1),
    ]
    write_epic_list(folder / "EPIC_100_train.csv", train)
    write_epic_list(folder / "EPIC_100_validation.csv", [epic_row("P01_11_7", 4, 5, verb_class=1)])
    write_epic_list(folder / "EPIC_100_test_timestamps.csv", [epic_row("P02_101_9", 1, 2)], EPIC_COLUMNS[:8])
    head = "id,key,instances,category\n"
    (folder / "EPIC_100_verb_classes.csv").write_text(
        f"{head}1,put,\"['put', 'put-down']\",leave\n0,take,[],retrieve\n"
    )
    (folder / "EPIC_100_noun_classes.csv").write_text(f"{head}0,tap,[],a\n1,board:chopping,[],b\n2,plate,[],c\n")
    (folder / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP01\n")
    (folder / "EPIC_100_tail_verbs.csv").write_text("verb\n1\n")
    (folder / "EPIC_100_tail_nouns.csv").write_text("noun\n2\n0\n")
    return folder
