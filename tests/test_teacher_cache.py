import errno
from pathlib import Path

import pytest
import torch

from hmba_hf.training.clip_teacher import ClipTeacher
from hmba_hf.training.teacher_cache import TeacherCache, digest_clip
from tiny_teachers import tiny_tower


@pytest.fixture
def clips():
    return torch.randn(3, 2, 3, 32, 32)


@pytest.fixture
def teacher():
    """A teacher that counts the clips that it looks at."""

    class Counting(ClipTeacher):
        clips = 0

        def __call__(self, pixel_values_videos):
            self.clips += len(pixel_values_videos)
            return super().__call__(pixel_values_videos)

    return Counting(tiny_tower(), num_layers=2)


def look(teacher, folder, clips):
    cache = TeacherCache(folder, teacher.key(torch.float32))
    return cache.look(teacher, clips, [digest_clip(clip) for clip in clips])


def assert_same(output, wanted):
    assert torch.equal(output.features, wanted.features) and torch.equal(output.attention, wanted.attention)


def test_a_teacher_looks_at_each_clip_once(tmp_path, teacher, clips):
    wanted = ClipTeacher(teacher.tower, num_layers=2)(clips)
    assert_same(look(teacher, tmp_path, clips), wanted)
    assert teacher.clips == 3
    again = look(teacher, tmp_path, clips.flip(0))
    assert teacher.clips == 3
    assert torch.equal(again.features, wanted.features.flip(1)) and torch.equal(
        again.attention, wanted.attention.flip(0)
    )


def test_what_is_kept_is_not_changed_by_new_clips_beside_it(tmp_path, teacher, clips):
    first = look(teacher, tmp_path, clips[:1])
    both = look(teacher, tmp_path, clips)
    assert torch.equal(both.features[:, :1], first.features)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 3


def test_another_crop_flip_or_size_is_another_clip(clips):
    clip = clips[0]
    others = [clip, clip.flip(-1), clip[..., :16], clip[:1], clip.double(), clip.transpose(-1, -2)]
    assert len({digest_clip(other) for other in others}) == len(others)
    assert digest_clip(clip.clone()) == digest_clip(clip)


def test_half_precision_is_kept_as_it_is(tmp_path, teacher, clips):
    with torch.autocast("cpu", torch.bfloat16):
        first = look(teacher, tmp_path, clips)
    assert first.features.dtype == torch.bfloat16
    assert_same(look(teacher, tmp_path, clips), first)


def test_a_damaged_file_is_made_again(tmp_path, teacher, clips, capsys):
    wanted = look(teacher, tmp_path, clips)
    paths = sorted(tmp_path.glob("*/*.safetensors"))
    paths[0].write_bytes(paths[0].read_bytes()[:-9])
    paths[1].write_bytes(b"")
    assert_same(look(teacher, tmp_path, clips), wanted)
    assert capsys.readouterr().out.count("is damaged and is made again") == 2
    assert teacher.clips == 6
    look(teacher, tmp_path, clips)
    assert teacher.clips == 6


def test_features_of_another_teacher_are_refused(tmp_path, teacher, clips):
    look(teacher, tmp_path, clips)
    other = ClipTeacher(tiny_tower(), num_layers=2)
    with pytest.raises(ValueError, match="holds other features: teacher must be .* Name another folder"):
        look(other, tmp_path, clips)
    with pytest.raises(ValueError, match=r"holds other features: layers must be '\[2\]', got '\[1, 2\]'"):
        look(ClipTeacher(teacher.tower), tmp_path, clips)


def test_a_full_disk_is_named_and_keeps_what_is_whole(tmp_path, teacher, clips, monkeypatch):
    wanted = look(teacher, tmp_path, clips[:1])

    def full(path, data):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="could not be written, .* MiB are free: .*The files before it are whole"):
        look(teacher, tmp_path, clips)
    assert len(list(tmp_path.rglob("*.*"))) == 2  # the key and the first clip
    assert_same(look(teacher, tmp_path, clips[:1]), wanted)
