"""Where the pictures of an AVI file stand that has lost bytes or gained some, by the index at its end.

The index tells the place of each chunk in the file as it was written. Chunks before the first gap are still there, and
those behind the last one have moved by as much as the index itself has. Chunks between gaps are known where several in
a row are as long as no others in the file.
"""

from collections import Counter
from itertools import takewhile

from .decoding_damage import BytesAt

_LONGEST_HEAD = 2**17  # bytes before the list of chunks
_LONGEST_INDEX = 2**24
_INDEX = b"idx1"
_LIST = b"rec "  # of chunks, which have entries of their own
_HEADER = 8  # bytes: the name of a chunk, and the length of its content
_ENTRY = 16  # bytes of the index: name, flags, place, length
_SURE = 4  # chunks in a row that tell by their names and lengths which ones they are
_MOST_SEARCHED = 2**26  # bytes between gaps


def moved_pictures(bytes_at: BytesAt, size: int, stream: int, reads_all: bool = False) -> dict[int, int]:
    """Find the pictures of a file whose index is not where the header states it.

    Args:
        bytes_at: gives the bytes from a place on, at most so many.
        size: bytes of the file.
        stream: number of the video stream in the file.
        reads_all: follow an index in its place, too, and find the pictures where it leads to damage.

    Returns:
        The number of each picture that is surely known, by the place of its data. Nothing for a file whose index is
        in its place and sound, is not found, or fits none of the chunks at the end.
    """
    head = bytes_at(0, _LONGEST_HEAD)
    movi = head.find(b"movi")
    if not head.startswith(b"RIFF") or head[8:12] != b"AVI " or head[movi - 8 : movi - 4] != b"LIST":
        return {}
    stated = movi + int.from_bytes(head[movi - 4 : movi], "little")
    is_in_place = bytes_at(stated, len(_INDEX)) == _INDEX
    if is_in_place and not reads_all:
        return {}
    start = max(size - _LONGEST_INDEX, 0)
    tail = bytes_at(start, size - start)
    place = tail.rfind(_INDEX)
    length = int.from_bytes(tail[place + 4 : place + _HEADER], "little")
    if place < 0 or length > len(tail) - place - _HEADER:
        return {}
    if is_in_place and start + place != stated:  # the file has other parts, each with an index
        return {}
    content = tail[place + _HEADER : place + _HEADER + length]
    entries = []
    for at in range(0, length - _ENTRY + 1, _ENTRY):
        entry = content[at : at + _ENTRY]
        if not entry.startswith(_LIST):
            entries.append(entry)
    return _known_pictures(bytes_at, entries, movi, start + place - stated, b"%02d" % stream)


def _known_pictures(bytes_at: BytesAt, entries: list[bytes], movi: int, shift: int, stream: bytes) -> dict[int, int]:
    """Follow the index from its start, and from its end back, as long as chunks stand where it leads."""
    places = [int.from_bytes(entry[8:12], "little") for entry in entries]
    if places and places[0] < movi:  # they count from the name of the list
        places = [place + movi for place in places]
    headers = [entry[:4] + entry[12:] for entry in entries]
    numbers = []
    count = 0
    for entry in entries:
        numbers.append(count)
        count += entry.startswith(stream)

    def stands(row: int, by: int) -> bool:
        place = places[row] + by
        return place >= 0 and bytes_at(place, _HEADER) == headers[row]

    everything = range(len(entries))
    before = [*takewhile(lambda row: stands(row, 0), everything)]
    if shift == 0 and len(before) == len(entries):
        return {}
    behind = [*takewhile(lambda row: stands(row, shift), reversed(everything))]
    if not behind:
        return {}
    found = dict.fromkeys(before, 0)
    found |= _between_gaps(bytes_at, headers, places, range(len(before), behind[-1]), shift)
    found |= dict.fromkeys(behind, shift)
    known = {}
    for row, by in found.items():
        if entries[row].startswith(stream):
            known[places[row] + by + _HEADER] = numbers[row]
    return known


def _between_gaps(
    bytes_at: BytesAt, headers: list[bytes], places: list[int], rows: range, shift: int
) -> dict[int, int]:
    """By how much chunks have moved that stand between the first gap and the last one.

    Args:
        headers: name and length of each chunk of the index.
        places: where each stood.
        rows: of the index that are looked for.
        shift: by which the index has moved.

    Returns:
        The shift of each chunk that is found, by its row.
    """
    marks = [b"".join(headers[row : row + _SURE]) for row in range(len(headers))]
    frequency = Counter(marks)
    found: dict[int, int] = {}
    reached = 0  # the shift of the last chunk that was found
    searched = 0
    row = rows.start
    while row < rows.stop and searched < _MOST_SEARCHED:
        length = 0
        if frequency[marks[row]] == 1:
            start = max(places[row] + min(reached, shift), 0)
            window = bytes_at(start, abs(reached - shift) + _HEADER)
            searched += len(window)
            at = window.find(headers[row])
            while at >= 0 and length < _SURE:
                by = start + at - places[row]
                length = _run_length(bytes_at, headers, places, range(row, rows.stop), by)
                at = window.find(headers[row], at + 1)
        if length >= _SURE:
            found |= dict.fromkeys(range(row, row + length), by)
            reached = by
            row += length
        else:
            row += 1
    return found


def _run_length(bytes_at: BytesAt, headers: list[bytes], places: list[int], rows: range, by: int) -> int:
    """How many chunks from the first of some rows on stand where the index says, moved by so many bytes."""
    for length, row in enumerate(rows):
        place = places[row] + by
        if place < 0 or bytes_at(place, _HEADER) != headers[row]:
            return length
    return len(rows)
