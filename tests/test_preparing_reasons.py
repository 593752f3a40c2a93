import pytest

from hmba_hf.data.preparing.converting import MEDIA_MISSING, Dropped, Entry, Plan, RunOptions, prepare
from test_preparing import preparation


def run_lost(folder, num_missing):
    """Prepare five entries without a row: some lack media, the others have no word."""

    def convert(group):
        reasons = [MEDIA_MISSING if int(entry.id) < num_missing else "no_word" for entry in group]
        return [Dropped(entry.id, reason) for entry, reason in zip(group, reasons, strict=True)]

    entries = [Entry(str(number), "train", f"file{number}", number) for number in range(5)]
    prepare(preparation(Plan(5, entries, []), convert), RunOptions(str(folder)))


def test_one_missing_file_does_not_hide_the_most_frequent_reason(tmp_path):
    with pytest.raises(ValueError, match="got none of 5; the most frequent reason is no_word, 4 times, as of 1"):
        run_lost(tmp_path, num_missing=1)
    with pytest.raises(ValueError, match="none of 3 entries has media that can be read; .*name the right folder"):
        run_lost(tmp_path / "again", num_missing=3)
