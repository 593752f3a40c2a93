"""Where the pictures of an AVI file stand that has lost bytes or gained some, by the index at its end.

The index tells the place of each chunk in the file as it was written. Chunks before the first gap are still there, and
those behind the last one have moved by as much as the index itself has.
"""

from .decoding_damage import BytesAt

_LONGEST_HEAD = 2**17  # bytes before the list of chunks
_LONGEST_INDEX = 2**24
_INDEX = b"idx1"
_LIST = b"rec "  # of chunks, which have entries of their own
_HEADER = 8  # bytes: the name of a chunk, and the length of its content
_ENTRY = 16  # bytes of the index: name, flags, place, length


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
    numbers = []
    count = 0
    for entry in entries:
        numbers.append(count)
        count += entry.startswith(stream)

    def walk(order: range, by: int) -> dict[int, int]:
        known = {}
        for row in order:
            entry = entries[row]
            place = places[row] + by
            if place < 0 or bytes_at(place, _HEADER) != entry[:4] + entry[12:]:
                break
            if entry.startswith(stream):
                known[place + _HEADER] = numbers[row]
        return known

    before = walk(range(len(entries)), 0)
    if shift == 0 and len(before) == count:
        return {}
    behind = walk(range(len(entries) - 1, -1, -1), shift)
    return {**before, **behind} if behind else {}
