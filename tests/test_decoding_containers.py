"""What may be opened as a video, and whose fault it is when that fails."""

import bz2
import gzip
import http.client
import itertools
import lzma
import mmap
import os
import socket
import tarfile
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from urllib.request import urlopen

import av
import numpy as np
import pytest
from PIL import Image

from hmba_hf.data.clips import video_duration
from hmba_hf.models.decoding_containers import LIMITS, SourceLimits, VideoDecodeError
from hmba_hf.models.decoding_video import decode_frames, iter_frames
from numbered_videos import numbered_frame, numbered_video, read_numbers


@pytest.fixture(scope="module")
def video():
    """Two seconds of numbered frames, ten a second."""
    return numbered_video(20, rate=10)


@pytest.fixture
def path(video, tmp_path):
    (tmp_path / "drive.mp4").write_bytes(video)
    return tmp_path / "drive.mp4"


DOORS = {
    "clip": decode_frames,
    "iter_frames": lambda source: list(iter_frames(source)),
    "video_duration": video_duration,
}


def test_containers_open_without_the_option_for_tags_that_pyav_19_has_no_more(video, monkeypatch):
    monkeypatch.setattr("hmba_hf.models.decoding_containers._TAG_OPTIONS", {})
    assert read_numbers(decode_frames(video, 1.0, 2)[0]) == [5, 10]


def test_every_option_of_opening_is_one_that_the_installed_pyav_knows(path):
    for door in DOORS.values():
        door(path)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
@pytest.mark.parametrize("error", [TypeError, AttributeError, NameError, KeyError])
def test_a_mistake_in_our_own_call_is_never_a_damaged_file(path, door, error, monkeypatch):
    def open_with_a_mistake(*args, **kwargs):
        raise error("open() got an unexpected keyword argument")

    monkeypatch.setattr(av, "open", open_with_a_mistake)
    with pytest.raises(error, match="unexpected keyword") as raised:
        door(path)
    assert not isinstance(raised.value, VideoDecodeError)


# Whose fault a failure is: a file that cannot be read


def test_a_file_that_the_system_cannot_read_is_named():
    with pytest.raises(VideoDecodeError, match=r"^/proc/self/mem cannot be read as a video: .*Input/output error"):
        decode_frames("/proc/self/mem")


# Only video is opened as video


@pytest.fixture
def listener():
    """A port of this machine that counts who comes: `(port, count)`."""
    visits = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)

        def wait():
            while True:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                except OSError:  # closed
                    return
                visits.append(1)
                connection.close()

        threading.Thread(target=wait, daemon=True).start()
        yield server.getsockname()[1], lambda: len(visits)


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
LISTS = {
    "hls.m3u8": HLS,
    "hls_in_disguise.mp4": HLS,
    "scenes.ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "scenes.mp4": "ffconcat version 1.0\nfile '{}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{}</BaseURL></MPD>',
    "tags.txt": ";FFMETADATA1\ntitle={}\n",
    "words.srt": "1\n00:00:00,000 --> 00:00:09,000\n{}\n",
    "page.html": "<html><body>{}</body></html>",
    "list.asx": '<asx version="3.0"><entry><ref href="{}"/></entry></asx>',
    "list.ram": "{}\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_texts_that_lead_to_other_files_and_addresses_are_refused_untouched(name, door, path, listener, tmp_path):
    port, visits = listener
    for target in (path, path.name, f"http://127.0.0.1:{port}/a.ts", f"tcp://127.0.0.1:{port}"):
        text = LISTS[name].format(target, port=port)
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoDecodeError, match=name.replace(".", r"\.")):
            door(tmp_path / name)
        if door is not video_duration:
            with pytest.raises(VideoDecodeError, match="the video in bytes"):
                door(text.encode())
    assert visits() == 0


@pytest.mark.parametrize("name", ["frame%d.png", "frame%03d.png", "frame*.png", "http:frame.png", "concat:a|b.png"])
def test_a_name_is_never_a_pattern_or_a_protocol(name, tmp_path):
    for number in (1, 2, 3):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"frame{number}.png")
    Image.fromarray(numbered_frame(7)).save(tmp_path / name)
    assert read_numbers(decode_frames(tmp_path / name)[0]) == [7] * 5
    file = NamedFile((tmp_path / name).read_bytes())
    file.name = str(tmp_path / name)
    assert read_numbers(decode_frames(file)[0]) == [7] * 5


@pytest.mark.parametrize("source_format", ["concat", "image2", "ffmetadata", "srt", "wav", "nonsense", ""])
def test_a_format_is_named_for_cameras_live_sources_and_containers_alone(source_format, path):
    with pytest.raises(ValueError, match="source_format must be") as raised:
        next(iter_frames(path, source_format))
    assert not isinstance(raised.value, VideoDecodeError)


def test_a_container_may_be_named(video, path):
    for source in (path, str(path), video, BytesIO(video)):
        assert len(list(iter_frames(source, "mp4"))) == 20
    with pytest.raises(VideoDecodeError, match="cannot be read as a video"):
        list(iter_frames(path, "matroska"))


def test_a_device_of_ffmpeg_may_be_named():
    frames = iter_frames("testsrc=size=64x48:rate=10", "lavfi")
    assert [round(seconds, 3) for seconds, _ in itertools.islice(frames, 3)] == [0.0, 0.1, 0.2]


def test_a_playlist_is_followed_where_its_format_is_named(tmp_path):
    (tmp_path / "a.ts").write_bytes(numbered_video(20, container="mpegts", codec="mpeg2video", rate=25))
    (tmp_path / "list.m3u8").write_text(HLS.format("a.ts"))
    with pytest.raises(VideoDecodeError, match="source_format='hls'"):
        list(iter_frames(tmp_path / "list.m3u8"))
    pictures = [picture for _, picture in iter_frames(tmp_path / "list.m3u8", "hls")]
    assert read_numbers(np.stack(pictures)) == list(range(20))


def test_a_local_playlist_whose_format_is_named_stays_on_this_machine(listener, tmp_path):
    port, visits = listener
    (tmp_path / "list.m3u8").write_text(HLS.format(f"http://127.0.0.1:{port}/a.ts"))
    with pytest.raises(VideoDecodeError):
        list(iter_frames(tmp_path / "list.m3u8", "hls"))
    assert visits() == 0


# File objects


class NamedFile(BytesIO):
    """A file in memory with attributes that PyAV would read."""

    name = "video.m3u8"
    mode = "wb"


def spooled(data, path):
    file = tempfile.SpooledTemporaryFile(max_size=2**30)
    file.write(data)
    return file


def rolled(data, path):
    file = spooled(data, path)
    file.rollover()
    return file


def zipped(data, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("drive.mp4", data)
    return zipfile.ZipFile(path).open("drive.mp4")


def tarred(mode):
    def pack(data, path):
        with tarfile.open(path, "w:gz" if "gz" in mode else "w") as archive:
            for name in ("a.mp4", "b.mp4"):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, BytesIO(data))
        archive = tarfile.open(path, mode)
        return archive.extractfile(archive.next())

    return pack


def compressed(module):
    def pack(data, path):
        path.write_bytes(module.compress(data))
        return module.open(path)

    return pack


def on_disk(mode):
    def write(data, path):
        path.write_bytes(data)
        return open(path, mode)

    return write


def mapped(data, path):
    path.write_bytes(data)
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


FILES = {
    "memory": lambda data, path: NamedFile(data),
    "spooled in memory": spooled,
    "spooled on disk": rolled,
    "gzip": compressed(gzip),
    "bzip2": compressed(bz2),
    "xz": compressed(lzma),
    "zip": zipped,
    "tar": tarred("r"),
    "streamed tar": tarred("r|"),
    "streamed tar.gz": tarred("r|gz"),
    "read and write": on_disk("r+b"),
    "mmap": mapped,
}


@pytest.mark.parametrize("kind", FILES)
def test_file_objects_of_every_kind_are_read_and_left_open(kind, video, tmp_path):
    with FILES[kind](video, tmp_path / "file") as file:
        assert read_numbers(decode_frames(file, 1.0, 3, 5.0)[0]) == [6, 8, 10]
        assert not file.closed
    with FILES[kind](video, tmp_path / "file") as file:
        assert read_numbers(np.stack([picture for _, picture in iter_frames(file)])) == list(range(20))


class ShortReads(BytesIO):
    """A file that gives fewer bytes than it is asked for, as unbuffered ones may."""

    def read(self, size=-1):
        return super().read(min(size, 3))


def test_a_file_whose_reads_are_short_is_examined_as_others_are(video):
    assert read_numbers(decode_frames(ShortReads(video), 1.0, 3, 5.0)[0]) == [6, 8, 10]
    with pytest.raises(VideoDecodeError, match="no video but a list of addresses"):
        decode_frames(ShortReads(HLS.encode()))


def test_a_long_text_that_is_no_path_is_refused_without_printing_all_of_it():
    for door in (decode_frames, video_duration, lambda source: next(iter_frames(source))):
        with pytest.raises(FileNotFoundError, match="got 'data:video/mp4;base64,AAAA.*no such file") as caught:
            door("data:video/mp4;base64," + 100_000 * "A")
        assert len(str(caught.value)) < 500


def test_file_objects_that_cannot_be_read_are_refused_in_one_sentence(video, tmp_path):
    (tmp_path / "cut.gz").write_bytes(gzip.compress(video)[:-2000])
    (tmp_path / "flipped.gz").write_bytes(gzip.compress(video)[:-8] + bytes(8))
    (tmp_path / "text.gz").write_bytes(b"no gzip")
    for name in ("cut.gz", "flipped.gz", "text.gz"):
        with gzip.open(tmp_path / name) as file, pytest.raises(VideoDecodeError, match="the video file object cannot"):
            decode_frames(file)
    with open(tmp_path / "new", "wb") as file, pytest.raises(VideoDecodeError, match=r"file object cannot .*read"):
        decode_frames(file)
    with open(tmp_path / "new") as file, pytest.raises(VideoDecodeError, match="must give bytes, got str"):
        decode_frames(file)
    closed = BytesIO(video)
    closed.close()
    with pytest.raises(ValueError, match="got a closed one"):
        decode_frames(closed)


def test_a_file_that_unpacks_to_more_than_its_limit_is_refused(video, tmp_path):
    with compressed(gzip)(bytes(2**20), tmp_path / "file") as file:
        with pytest.raises(VideoDecodeError, match="at most max_bytes=100000, got more"):
            decode_frames(file, limits=SourceLimits(max_bytes=100_000))


# Endless addresses


class Endless(BaseHTTPRequestHandler):
    """Sends packets of MPEG-TS, a picture of a camera or a text, over and over where no length is stated."""

    def do_GET(self):
        kind, data, repeat = self.server.answers[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.path == "/large":
            self.send_header("Content-Length", str(2**40))
        if self.path == "/packed":
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            for _ in range(repeat):
                self.wfile.write(data)
        except OSError:  # the client has left
            pass

    def log_message(self, *args):
        pass


@pytest.fixture
def address(video):
    live = numbered_video(20, container="mpegts", codec="mpeg2video", rate=25)
    picture = BytesIO()
    Image.fromarray(numbered_frame(3)).save(picture, "JPEG")
    part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + picture.getvalue() + b"\r\n"
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        server.answers = {
            "/live": ("video/mp2t", live, 10**6),
            "/large": ("video/mp4", video, 1),
            "/packed": ("video/mp4", gzip.compress(video + bytes(10**6)), 1),
            "/camera": ("multipart/x-mixed-replace; boundary=frame", part, 10**6),
            "/list": ("application/vnd.apple.mpegurl", HLS.format("a.ts").encode(), 1),
            "/text": ("text/plain", HLS.format("a.ts").encode(), 1),
        }
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "named"), [("/live", "mpegts"), ("/camera", "mpjpeg"), ("/list", "hls"), ("/text", "hls")]
)
def test_an_address_without_end_is_refused_with_the_option_to_give(address, path, named):
    limits = SourceLimits(max_unstated_bytes=10**6)
    for door in (decode_frames, lambda *args, **kwargs: list(iter_frames(*args, **kwargs))):
        with pytest.raises(VideoDecodeError, match=rf"{path} is .*source_format='{named}'.*--source_format"):
            door(f"{address}{path}", limits=limits)


def test_a_download_ends_with_its_time_and_its_size(address):
    with pytest.raises(VideoDecodeError, match="states no length and has not ended"):
        decode_frames(f"{address}/live", limits=SourceLimits(max_seconds=0.01))
    with pytest.raises(VideoDecodeError, match=f"at most max_bytes={LIMITS.max_bytes}, got {2**40}"):
        decode_frames(f"{address}/large")
    with pytest.raises(VideoDecodeError, match="states no length and has not ended"):
        decode_frames(f"{address}/packed", limits=SourceLimits(max_unstated_bytes=10**5))
    assert len(decode_frames(f"{address}/packed")[0]) == 5


def test_a_file_object_that_may_have_no_end_is_refused_as_an_address_without_end_is(address, video, tmp_path):
    few = SourceLimits(max_unstated_bytes=10**5)
    for door in (decode_frames, video_duration, lambda *args, **kwargs: list(iter_frames(*args, **kwargs))):
        with urlopen(f"{address}/live") as file, pytest.raises(VideoDecodeError, match="states no length and has not"):
            door(file, limits=few)
        reading, writing = os.pipe()
        with open(reading, "rb") as file, open(writing, "wb") as pipe:
            writer = threading.Thread(target=pipe.write, args=(bytes(2**21),))
            writer.start()
            with pytest.raises(VideoDecodeError, match=r"the video file object is .*source_format='mpegts'"):
                door(file, limits=few)
            file.read(2**21 - 2**20)
            writer.join()
    with urlopen(f"{address}/packed") as file, gzip.open(file) as unpacked:
        assert len(decode_frames(unpacked, limits=few)[0]) == 5


DRIPS = {
    "a stated length": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "a head": (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
    "packed content that unpacks to nothing": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 100000\r\n\r\n"
        b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03",  # its file name has no end
        b"x",
    ),
}


@pytest.mark.parametrize("kind", DRIPS)
def test_a_download_that_drips_ends_with_its_time_whatever_it_states(kind):
    head, drip = DRIPS[kind]
    left = threading.Event()

    def answer():
        connection, _ = server.accept()
        connection.recv(2**16)
        connection.sendall(head)
        while not left.wait(0.02):
            try:
                connection.sendall(drip)
            except OSError:  # the client has left
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(VideoDecodeError, match=r"must come within max_download_seconds=0\.2, got no end"):
            decode_frames(
                f"http://127.0.0.1:{server.getsockname()[1]}/", limits=SourceLimits(max_download_seconds=0.2)
            )
        left.set()


@pytest.mark.parametrize(("path", "source_format"), [("/live", "mpegts"), ("/camera", "mpjpeg")])
def test_an_address_without_end_is_read_as_it_comes_in_a_named_format(address, path, source_format):
    frames = iter_frames(f"{address}{path}", source_format)
    pictures = [picture for _, picture in itertools.islice(frames, 3)]
    frames.close()
    assert read_numbers(np.stack(pictures)) == ([0, 1, 2] if path == "/live" else [3, 3, 3])


@pytest.mark.parametrize("source", ["rtsp://127.0.0.1:9/a", "udp://127.0.0.1:9", "rtmp://127.0.0.1:9/a", "/dev/zero"])
def test_an_address_or_a_device_without_a_format_is_refused_with_the_option_to_give(source):
    for door in (decode_frames, lambda source: list(iter_frames(source))):
        with pytest.raises(VideoDecodeError, match="source_format="):
            door(source)


def test_a_named_pipe_is_refused_without_a_format_and_read_with_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(VideoDecodeError, match="pipe is a pipe or a device: .*source_format='mpegts'"):
        decode_frames(tmp_path / "pipe")
    data = numbered_video(20, container="mpegts", codec="mpeg2video", rate=25)
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    pictures = [picture for _, picture in iter_frames(tmp_path / "pipe", "mpegts")]
    writer.join()
    assert read_numbers(np.stack(pictures)) == list(range(20))


# Sizes that a header claims


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "mpeg4"),
        ("matroska", "libx264"),
        ("webm", "libvpx-vp9"),
        ("mpegts", "mpeg2video"),
        ("avi", "mjpeg"),
        ("h264", "libx264"),
        ("hevc", "libx265"),
        ("flv", "flv"),
        ("vob", "mpeg2video"),
    ],
)
def test_pictures_beyond_the_limit_are_refused_with_their_size(container, codec):
    data = numbered_video(8, container=container, codec=codec, size=(160, 128), rate=25)
    small = SourceLimits(max_pixels=160 * 128 - 1)
    for door in (decode_frames, lambda *args, **kwargs: list(iter_frames(*args, **kwargs))):
        with pytest.raises(VideoDecodeError, match="at most max_pixels=20479, got 160 x 128 pixels"):
            door(data, limits=small)
    assert decode_frames(data, limits=SourceLimits(max_pixels=160 * 128))[0].shape == (5, 128, 160, 3)


def test_a_response_that_breaks_off_names_its_source():
    class Response(BytesIO):
        def read(self, size=-1):
            raise http.client.IncompleteRead(b"")

    with pytest.raises(VideoDecodeError, match="cannot be read as a video: IncompleteRead"):
        decode_frames(Response(numbered_video(8)))


@pytest.mark.parametrize("limits", [{"max_pixels": 0}, {"max_aspect_ratio": -1.0}, {"max_bytes": True}])
def test_a_limit_is_a_number_greater_than_zero(limits):
    with pytest.raises(ValueError, match=f"{next(iter(limits))} must be a number greater than zero"):
        SourceLimits(**limits)
