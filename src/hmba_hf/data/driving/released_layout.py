"""The layout that the released H-MBA code reads: JSON lines, and pictures of each clip beside them.

`{id}.jpg` is the current frame of a clip; `{id}_p1.jpg`, `{id}_p2.jpg` and so on are the earlier ones, oldest first.
Each split has its own lines. Its pictures lie in a folder of its name or beside those of the others.

Source: github.com/Sranc3/H-MBA at 9a8645d, `FlickrDataset` and `InstructDataset`.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...files import parse_json, split_lines
from ...models.decoding_containers import LIMITS, SourceLimits, VideoDecodeError, errors_named
from ...models.decoding_stills import read_picture
from ..clips import even_size, write_video
from ..preparing.converting import MEDIA_MISSING, MEDIA_UNREADABLE, Converted, Entry, Plan, name_differently
from ..preparing.finding import is_inside
from ..preparing.parquet_shards import Dropped
from ..preparing.tables import is_unicode
from ..samples import BOX_MARKER
from .drama_rows import UNNAMED_OBJECT, ClipAnnotation, EntryError, read_frames, read_numbers

PHRASE_START = "<ph_st>"
PHRASE_END = "<ph_ed>"
PICTURE = "<image>"
_FOLDERS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}


@dataclass(frozen=True)
class Drive:
    """What the ego car does in a clip, and why; `picture` is the file of the current frame."""

    fingerprint_name: ClassVar = "Drive"

    picture: str
    segment: int
    action: str
    justification: str


def plan_sentences(files: Mapping[str, str | Path]) -> Plan:
    """Read DRAMA's lines, a file for each split: a picture, boxes in pixels, and a sentence that marks their words."""
    entries: list[Entry] = []
    dropped: list[Dropped] = []
    taken: Counter[str] = Counter()
    found = 0
    for split, path in files.items():
        for name, line in _read_lines(path):
            found += 1
            try:
                image_id, sentence, boxes, places = _fields(line, "image_id", "sentence", "boxes", "boxes_seq")
                name = name_differently(str(image_id), taken)
                entries.append(Entry(name, split, str(image_id), _read_sentence(sentence, boxes, places)))
            except EntryError as error:
                dropped.append(Dropped(name, error.reason, error.detail))
    return Plan(found, entries, dropped)


def _read_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """Yield each line that holds anything as its name and its JSON value, `None` if it has none."""
    for number, line in split_lines(path):
        try:
            value = parse_json(line)
        except ValueError:
            value = None
        yield f"{Path(path).name}, line {number}", value


def _fields(line: Any, *names: str) -> list[Any]:
    if not isinstance(line, Mapping) or not all(name in line for name in names):
        raise EntryError("line_malformed", f"expected an object in JSON with {', '.join(names)}")
    return [line[name] for name in names]


def _read_sentence(sentence: Any, boxes: Any, places: Any) -> ClipAnnotation:
    """Turn `<ph_st>words<ph_ed>` into `words<box>`, with a marker for each box that belongs to the words."""
    if not isinstance(sentence, str) or BOX_MARKER in sentence:
        raise EntryError("line_malformed", f"the sentence is {sentence!r}")
    if not sentence.strip():
        raise EntryError("no_caption", "the sentence is empty")
    *pieces, rest = sentence.split(PHRASE_END)
    chosen = _choose_boxes(boxes, places)
    if chosen is None or len(chosen) != len(pieces):
        raise EntryError("boxes_do_not_fit_the_text", f"boxes {boxes!r} at {places!r} for {sentence!r}")
    answer = ""
    labels: list[str] = []
    corners: list[tuple[float, float, float, float]] = []
    for piece, place in zip(pieces, chosen, strict=True):
        label = UNNAMED_OBJECT
        if PHRASE_START in piece:
            label = piece.rpartition(PHRASE_START)[2]
        answer += piece.replace(PHRASE_START, "") + BOX_MARKER * len(place)
        labels += [label] * len(place)
        corners += [(x1, y1, x2, y2) for x1, y1, x2, y2 in place]
    answer += rest.replace(PHRASE_START, "")
    return ClipAnnotation(answer, tuple(corners), tuple(labels))


def _choose_boxes(boxes: Any, places: Any) -> list[list[list[float]]] | None:
    """Return the boxes of each place, a list of indices of boxes; `None` where an index or a box is malformed."""
    if not isinstance(boxes, list) or not isinstance(places, list):
        return None
    chosen: list[list[list[float]]] = []
    for place in places:
        if not isinstance(place, list):
            return None
        chosen.append([])
        for index in place:
            if not isinstance(index, int) or not 0 <= index < len(boxes):
                return None
            box = read_numbers(boxes[index])
            if box is None or len(box) != 4:
                return None
            chosen[-1].append(box)
    return chosen


def plan_actions(files: Mapping[str, Sequence[str | Path]]) -> Plan:
    """Read BDD-X's lines, two files for each split: the actions, and the justifications of the same clips.

    A clip has the id `{id}_{segment}`, where the segment is 0 unless the id occurs in another split, too. Clips and
    lines without one count as found.
    """
    entries: list[Entry] = []
    dropped: list[Dropped] = []
    taken: Counter[str] = Counter()
    found = 0
    for split, paths in files.items():
        if len(paths) != 2:
            raise ValueError(
                f"the {split} split must have a file of actions and one of justifications, got {list(paths)}"
            )
        before = len(dropped)
        actions = _read_answers(paths[0], dropped)
        justifications = _read_answers(paths[1], dropped)
        names = list({**actions, **justifications})
        found += len(dropped) - before + len(names)
        for name in names:
            if name not in actions:
                dropped.append(Dropped(name, "no_action", f"of the {split} split"))
                continue
            if name not in justifications:
                dropped.append(Dropped(name, "no_justification", f"of the {split} split"))
                continue
            picture, action = actions[name]
            other, justification = justifications[name]
            if picture != other:
                dropped.append(Dropped(name, "pictures_differ", f"{picture} and {other}"))
                continue
            taken[name] += 1
            drive = Drive(picture, taken[name] - 1, action, justification)
            entries.append(Entry(f"{name}_{drive.segment}", split, name, drive))
    return Plan(found, entries, dropped)


def _read_answers(path: str | Path, dropped: list[Dropped]) -> dict[str, tuple[str, str]]:
    """Read the picture and the answer of each clip; malformed lines go to `dropped`."""
    answers: dict[str, tuple[str, str]] = {}
    for name, line in _read_lines(path):
        try:
            clip, picture, turns = _fields(line, "id", "image", "conversations")
            answer = _read_turns(turns)
            if str(clip) in answers:
                raise EntryError("id_repeated", str(clip))
            answers[str(clip)] = (str(picture), answer)
        except EntryError as error:
            dropped.append(Dropped(name, error.reason, error.detail))
    return answers


def _read_turns(turns: Any) -> str:
    """Return the answer of a conversation of one question, about a picture, and one answer."""
    said = []
    if isinstance(turns, list):
        said = [_read_turn(turn) for turn in turns]
    if [speaker for speaker, _ in said] == ["human", "gpt"]:
        question = said[0][1]
        answer = said[1][1]
        if PICTURE in question and PICTURE not in answer and answer.split() and is_unicode(answer):
            return " ".join(answer.split())
    raise EntryError("line_malformed", f"expected a question about {PICTURE} and its answer, got {turns!r}")


def _read_turn(turn: Any) -> tuple[str, str]:
    """Return the speaker and the text of a turn; empty texts for anything else."""
    if not isinstance(turn, Mapping) or not all(isinstance(turn.get(name), str) for name in ("from", "value")):
        return "", ""
    return turn["from"], turn["value"]


def find_released_frames(folder: Path, num_frames: int) -> Callable[[Entry], tuple[list[Path], tuple[str, ...]]]:
    """Return a function that finds the frames of a clip, oldest first, among the pictures in `folder`."""

    def find(entry: Entry) -> tuple[list[Path], tuple[str, ...]]:
        names = [f"{entry.media}_p{number}.jpg" for number in range(1, num_frames)]
        if isinstance(entry.content, Drive):
            names.append(entry.content.picture)
        else:
            names.append(f"{entry.media}.jpg")
        if outside := [name for name in names if not is_inside(name)]:
            raise EntryError(MEDIA_MISSING, f"pictures must lie in their folder, got {outside[0]}")
        place = folder
        for name in _FOLDERS[entry.split]:
            if (folder / name).is_dir():
                place = folder / name
                break
        return [place / name for name in names], ()

    return find


@dataclass(frozen=True)
class DriveConverter:
    """Turns entries whose content is a `Drive` into rows, the frames of each as a video that shows `fps` a second.

    Differs: the released code reads frames; rows of BDD-X hold a video, from which frames are sampled.
    """

    folder: Path
    num_frames: int
    fps: float
    height: int | None
    annotations_only: bool
    limits: SourceLimits = LIMITS

    def __call__(self, entries: Sequence[Entry]) -> list[Converted | Dropped]:
        """Convert each entry by itself."""
        return [self._convert(entry) for entry in entries]

    def _convert(self, entry: Entry) -> Converted | Dropped:
        video = None
        if not self.annotations_only:
            try:
                paths, _ = find_released_frames(self.folder, self.num_frames)(entry)
                frames, size = read_frames(paths, self.height, self.limits)
                content = self._to_video(frames, f"{paths[-1]}, {size[0]} x {size[1]} pixels,")
            except EntryError as error:
                return Dropped(entry.id, error.reason, error.detail.replace(f"{self.folder}/", ""))
            video = {"bytes": content, "path": f"{entry.id}.mp4"}
        drive: Drive = entry.content
        row = {
            "video": video,
            "video_id": entry.media,
            "segment": drive.segment,
            "start": 0.0,
            "end": self.num_frames / self.fps,
            "action": drive.action,
            "justification": drive.justification,
        }
        return Converted(row)

    def _to_video(self, frames: Sequence[bytes], name: str) -> bytes:
        pictures = [read_picture(frame, self.limits) for frame in frames]
        size = even_size(*pictures[0].size, most=None)
        even = []
        for picture in pictures:
            if picture.size != size:
                picture = picture.resize(size)
            even.append(picture)
        file = io.BytesIO()
        try:
            with errors_named(name, "cannot be encoded"):
                write_video(file, even, self.fps)
        except VideoDecodeError as error:
            raise EntryError(MEDIA_UNREADABLE, str(error)) from error
        return file.getvalue()
