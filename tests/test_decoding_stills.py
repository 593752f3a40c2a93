"""Pictures in files, in folders and opened by Pillow follow the rules of videos."""

import struct
import zlib
from base64 import b64encode
from io import BytesIO

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from encoded_pictures import encoded
from hmba_hf import iter_frames
from hmba_hf.data.driving.bddx import find_videos
from hmba_hf.data.driving.drama_rows import EntryError, read_frames, read_picture_size
from hmba_hf.data.samples import Sample, from_drama_row
from hmba_hf.models.decoding_containers import SourceLimits, VideoDecodeError
from hmba_hf.models.decoding_headers import picture_size
from hmba_hf.models.decoding_stills import list_pictures, read_picture, read_picture_header, upright, upright_rgb
from hmba_hf.models.decoding_video import decode_frames
from hmba_hf.models.video_processing_hmba import HMBAVideoProcessor, load_frame

PLAIN = {"do_resize": False, "do_normalize": False, "do_rescale": False, "do_expand_to_square": False}


def corners():
    """A picture of 64 x 48 whose four corners differ."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32] = 255, (255, 0, 0), (0, 0, 255)
    return Image.fromarray(picture)


def shown(orientation):
    """What every viewer shows of the corners with an orientation."""
    return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(encoded(corners(), "PNG", orientation)))))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["PNG", "TIFF", "WEBP"])
def test_every_door_for_pictures_turns_them_upright(orientation, suffix, tmp_path):
    wanted = shown(orientation)
    data = encoded(corners(), suffix, orientation, **({"lossless": True} if suffix == "WEBP" else {}))
    path = tmp_path / f"picture.{suffix.lower()}"
    path.write_bytes(data)
    doors = {
        "a file": read_picture(path),
        "bytes": read_picture(data),
        "opened by Pillow": upright_rgb(Image.open(path)),
        "upright twice": upright(upright(Image.open(path))).convert("RGB"),
        "a frame by its path": load_frame(str(path)),
        "a sample": Sample("x", "Q?", "A", frames=[Image.open(path)]).frames[0].convert("RGB"),
    }
    for name, picture in doors.items():
        assert np.array_equal(np.asarray(picture), wanted), name
    processor = HMBAVideoProcessor(**PLAIN)
    for clip in ([Image.open(path)], [[[str(path)]]]):
        pixels = processor(clip, return_tensors="np")["pixel_values_videos"]
        assert np.array_equal(np.moveaxis(pixels[0, 0], 0, -1), wanted)
    assert read_picture_header(path).size == (wanted.shape[1], wanted.shape[0])


def test_a_row_of_a_data_set_shows_its_pictures_upright_and_keeps_upright_jpeg_files(tmp_path):
    turned, plain = tmp_path / "turned.jpg", tmp_path / "plain.jpg"
    turned.write_bytes(encoded(corners(), "JPEG", 6, quality=95))
    plain.write_bytes(encoded(corners(), "JPEG", 1, quality=95))
    assert read_picture_size(turned) == (48, 64)
    (written,), size = read_frames([turned], None)
    assert size == (48, 64)
    assert np.abs(np.asarray(Image.open(BytesIO(written))).astype(int) - shown(6)).mean() < 5
    assert read_frames([plain], None) == ([plain.read_bytes()], (64, 48))
    row = {"id": "x", "question": "Q?", "answer": "A", "objects": [], "width": 48, "height": 64}
    for frame in ({"bytes": turned.read_bytes(), "path": None}, {"bytes": None, "path": str(turned)}):
        sample = from_drama_row({**row, "frames": [frame]})
        assert np.abs(np.asarray(sample.frames[0]).astype(int) - shown(6)).mean() < 5


def test_damaged_exif_data_do_not_make_a_picture_unreadable():
    data = encoded(corners(), "JPEG", 6)
    start = data.index(b"Exif\0\0") + 6
    broken = data[: start + 8] + b"\xff" * 12 + data[start + 20 :]
    assert read_picture(broken).size in ((64, 48), (48, 64))


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
def test_pictures_of_16_bits_are_scaled_as_videos_of_16_bits_are(suffix, tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / f"deep.{suffix.lower()}"
    Image.fromarray(values).save(path)
    as_video = decode_frames(path, num_frames=1)[0][0]
    opened = Image.open(path)
    for picture in (read_picture(path), upright_rgb(opened), upright_rgb(opened.convert("I")), load_frame(str(path))):
        assert np.array_equal(np.asarray(picture), as_video)
    for options in ({}, {"do_convert_rgb": False}):
        pixels = HMBAVideoProcessor(**{**PLAIN, "do_rescale": True})([opened], return_tensors="np", **options)
        assert np.allclose(pixels["pixel_values_videos"][0, 0, 0], as_video[..., 0] / 255)


def test_a_picture_whose_numbers_fit_into_8_bits_stays_as_it_is():
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    assert np.array_equal(np.asarray(upright_rgb(Image.fromarray(values)))[..., 0], values)
    with pytest.raises(VideoDecodeError, match="between 0 and 65535, got 0 to 70000"):
        upright_rgb(Image.fromarray(values * 70000 // 255))


def test_transparent_pictures_show_white_as_transparent_videos_do():
    clear = corners().convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))))
    data = encoded(clear, "PNG")
    assert np.abs(np.asarray(read_picture(data)).astype(int) - decode_frames(data, num_frames=1)[0][0]).max() <= 1


@pytest.mark.parametrize("suffix", ["PNG", "GIF"])
def test_transparent_colours_of_a_palette_show_white_as_transparent_videos_do(suffix):
    palette = corners().quantize(4)
    transparency = bytes([0, 128, 255, 255]) if suffix == "PNG" else 1
    data = encoded(palette, suffix, transparency=transparency)
    picture = np.asarray(read_picture(data))
    assert np.array_equal(decode_frames(data, num_frames=1)[0][0], picture)
    assert (picture == 255).all(axis=-1).any()


def test_pictures_of_a_folder_come_in_natural_order_without_hidden_files(tmp_path):
    names = [
        "frame1.png",
        "Frame2.PNG",
        "frame10.png",
        "frame10 (2).png",
        "frame10.5.png",
        "frame10a.jpg",
        "frame100.png",
        "x 3-2.bmp",
        "x 3-10.bmp",
    ]
    for name in [*names, "._frame1.png", ".DS_Store", ".hidden.png", "notes.txt"]:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "frame3.png").mkdir()
    assert [path.name for path in list_pictures(tmp_path)] == names


def test_hidden_videos_are_passed_over(tmp_path):
    for name in ("drive.mp4", "._drive.mp4", ".trash/old.mp4", "a/next.mov"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert {path.name for path in find_videos(tmp_path).values()} == {"drive.mp4", "next.mov"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_whatever_pillow_raises_for_a_damaged_picture_names_its_file(suffix, tmp_path):
    generator = np.random.default_rng(0)
    data = encoded(Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)), suffix)
    path, failures = tmp_path / "damaged.picture", 0
    for _ in range(60):
        damaged = bytearray(data)
        for place in generator.integers(0, min(len(damaged), 150), 8):
            damaged[place] = generator.integers(256)
        path.write_bytes(damaged[: generator.integers(1, len(damaged))])
        try:
            read_picture(path)
        except VideoDecodeError as error:
            failures += 1
            assert str(path) in str(error) and " at 0x" not in str(error)
        with_pixels = read_or_none(path)
        assert with_pixels is None or with_pixels[0]
    assert failures > 10


def read_or_none(path):
    try:
        return read_frames([path], None)
    except EntryError as error:
        assert error.reason == "media_unreadable"
        return None


def test_a_picture_larger_than_its_limit_is_refused_by_its_header(tmp_path):
    path = tmp_path / "large.png"
    corners().save(path)
    with pytest.raises(VideoDecodeError, match=r"large\.png .*at most max_pixels=3000, got 64 x 48 pixels"):
        read_picture(path, SourceLimits(max_pixels=3000))


def claimed_size(kind, width, height):
    """A small picture in WebP, QOI or SGI whose header claims another size."""
    suffix = "WEBP" if kind.startswith("VP8") else kind
    data = bytearray(encoded(Image.new("RGB", (32, 24)), suffix, **({"lossless": True} if kind == "VP8L" else {})))
    if kind == "VP8L":
        data[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    elif kind == "VP8":
        data[26:30] = struct.pack("<HH", width, height)
    elif kind == "QOI":
        data[4:12] = struct.pack(">II", width, height)
    else:
        data[6:10] = struct.pack(">HH", width, height)
    return bytes(data)


@pytest.mark.parametrize("size", [(9_000, 8_000), (16_000, 15_000)])
@pytest.mark.parametrize("kind", ["VP8", "VP8L", "QOI", "SGI"])
def test_the_size_that_a_picture_claims_is_named_at_every_door(kind, size):
    data = claimed_size(kind, *size)
    for door in (decode_frames, read_picture, read_picture_header, lambda source: list(iter_frames(source))):
        with pytest.raises(VideoDecodeError, match=f"max_pixels=67108864, got {size[0]} x {size[1]} pixels"):
            door(data)


@pytest.mark.parametrize("suffix", ["BMP", "GIF", "JPEG", "PNG", "QOI", "SGI", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_a_picture_is_found_in_its_header(suffix, mode):
    mode = "RGB" if suffix == "JPEG" else mode
    assert picture_size(encoded(Image.new(mode, (32, 24), "red"), suffix)) == (32, 24)


def test_what_is_no_picture_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.png"):
        read_picture(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(VideoDecodeError, match=r"text\.png cannot be read as a picture"):
        read_picture(tmp_path / "text.png")


def test_a_reported_folder_of_pictures_that_lie_is_upright(shared_data):
    for number, path in enumerate(list_pictures(shared_data / "reports" / "exif6")):
        picture = read_picture(path)
        assert (path.name, picture.size) == (f"{number}.jpg", (96, 128))
        assert np.abs(np.asarray(picture).astype(int) - decode_frames(path, num_frames=1)[0][0]).mean() < 3


def test_a_picture_in_base64_text_is_read_as_its_file_is(tmp_path):
    lying = Image.Exif()
    lying[274] = 6
    deep = Image.fromarray(np.full((20, 30), 30000, np.uint16))
    clear = Image.new("RGBA", (30, 20), (0, 0, 0, 0))
    for name, picture in (("deep.png", deep), ("clear.png", clear), ("lying.png", Image.new("RGB", (30, 20)))):
        picture.save(tmp_path / name, exif=lying)
        text = b64encode((tmp_path / name).read_bytes()).decode()
        wanted = np.asarray(read_picture(tmp_path / name))
        for written in (text, f"data:image/png;base64,{text}", "\n".join([text[:40], text[40:]])):
            np.testing.assert_array_equal(np.asarray(load_frame(written)), wanted)


def test_base64_text_takes_no_memory_for_the_size_that_it_claims():
    header = b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">2I5B", 9000, 9000, 8, 2, 0, 0, 0))])
    with pytest.raises(VideoDecodeError, match="max_pixels=67108864, got 9000 x 9000"):
        load_frame(b64encode(header + chunk(b"IDAT", zlib.compress(bytes(10)))).decode())
    with pytest.raises(ValueError, match="base64 text, got 'no/such/file.png'"):
        load_frame("no/such/file.png")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.mpo", "a.png", "a.txt", "a.mp4"])
@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "CMYK", "PNG", "TIFF", "WEBP", "BMP", "16 bits"])
def test_the_name_of_a_large_picture_leads_nowhere_but_to_its_content(kind, name, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    if kind == "CMYK":
        data = encoded(picture.convert("CMYK"), "JPEG", quality=95)
    elif kind == "16 bits":
        data = encoded(Image.fromarray(noise[..., 0].astype(np.uint16) * 256), "PNG")
    else:
        options = {"progressive": kind.startswith("progressive"), "quality": 95} if "JPEG" in kind else {}
        data = encoded(picture, kind.rpartition(" ")[2], **options)
    (tmp_path / name).write_bytes(data)
    frames, _ = decode_frames(tmp_path / name, num_frames=1)
    expected = np.asarray(read_picture(data), dtype=float)
    correlation = np.corrcoef(frames[0].ravel(), expected.ravel())[0, 1]
    assert frames.shape == (1, 96, 96, 3) and correlation > 0.9


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


def test_a_picture_that_is_a_program_is_never_run(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    path = tmp_path / "a.jpg"
    path.write_bytes(POSTSCRIPT)
    for source in (path, POSTSCRIPT, BytesIO(POSTSCRIPT)):
        with pytest.raises(VideoDecodeError, match="cannot be read as a picture"):
            read_picture(source)
        with pytest.raises(VideoDecodeError):
            read_picture_header(source)
    opened = Image.open(path)
    for door in (upright_rgb, lambda picture: HMBAVideoProcessor(**PLAIN)([picture])):
        with pytest.raises(VideoDecodeError, match="must hold pixels, got PostScript"):
            door(opened)
    assert not started


def test_a_gray_picture_of_floats_is_rounded_or_refused_by_its_scale():
    values = np.linspace(0, 255, 12, dtype=np.float32).reshape(3, 4)
    shown = upright_rgb(Image.fromarray(values))
    assert np.array_equal(np.asarray(shown)[..., 0], np.rint(values))
    for odd in (values / 255, values * 257, values - 1, np.where(values > 200, np.nan, values)):
        with pytest.raises(VideoDecodeError, match="must have pixels between 0 and 255, got floats from"):
            upright_rgb(Image.fromarray(odd.astype(np.float32)))


def test_what_is_no_picture_is_refused_in_words_that_are_the_same_in_each_process():
    with pytest.raises(
        VideoDecodeError, match="cannot be read as a picture: it is damaged or of no known format$"
    ) as refused:
        read_picture(b"no picture")
    assert " at 0x" not in str(refused.value)
