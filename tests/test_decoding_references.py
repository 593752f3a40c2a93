from io import BytesIO

import av
import pytest

from hmba_hf.models.decoding_references import references_of
from numbered_videos import numbered_video


def with_options(**options):
    def prepare(stream):
        stream.options = {name.replace("_", "-"): value for name, value in options.items()}

    return prepare


def h264(words="", **muxer):
    return numbered_video(60, rate=25, gop=30, codec="libx264", prepare=with_options(x264_params=words), **muxer)


def h265(words=""):
    words = f"log-level=error:keyint=30:{words}"
    return numbered_video(60, rate=25, gop=30, codec="libx265", prepare=with_options(x265_params=words))


def av1():
    options = with_options(preset="10", svtav1_params="pred-struct=2")
    return numbered_video(60, rate=25, gop=30, codec="libsvtav1", size=(64, 64), prepare=options)


def kinds(data):
    """The rules of a file, and what they make of its packets."""
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        references = references_of(stream.codec_context.name, stream.codec_context.extradata)
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return references, [None if references is None else references.kind_of(packet) for packet in packets]


@pytest.mark.parametrize("write", [h264, h265])
def test_headers_state_the_size_and_the_order_of_pictures(write):
    references, _ = kinds(write("bframes=3:b-adapt=0"))
    assert references.header.size == (64, 48)
    assert references.header.reorder == 2
    assert kinds(write("bframes=0"))[0].header.reorder == 0


@pytest.mark.parametrize("write", [h264, h265])
@pytest.mark.parametrize("words", ["bframes=3:b-adapt=0", "bframes=0"])
def test_all_pictures_are_decoded_without_those_that_no_other_refers_to(write, words):
    data = write(words)
    _, found = kinds(data)
    with av.open(BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.skip_frame = "NONREF"  # FFmpeg's own reading of the same headers
        times = {frame.pts for frame in container.decode(stream)}
        container.seek(0)
        packets = [packet for packet in container.demux(stream) if packet.size]
        assert {packet.pts for packet, kind in zip(packets, found, strict=True) if kind.is_reference} == times
    assert found[0].is_key
    assert all(kind.is_reference for kind in found) == (words == "bframes=0")


def test_all_pictures_of_av1_are_those_of_decoding_all_without_those_that_no_other_refers_to():
    data = av1()
    references, found = kinds(data)
    assert references.header.size == (64, 64)
    assert [place for place, kind in enumerate(found) if kind.is_key] == [0, 30]
    unneeded = {place for place, kind in enumerate(found) if not kind.is_reference}
    assert 10 < len(unneeded) < 30
    pictures = []
    for left_out in (set(), unneeded):
        with av.open(BytesIO(data)) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            kept = [packet for place, packet in enumerate(packets) if place not in left_out]
            frames = [frame for packet in [*kept, None] for frame in stream.codec_context.decode(packet)]
            pictures.append({frame.pts: frame.to_ndarray() for frame in frames})
    assert len(pictures[1]) == 60 - len(unneeded)
    assert all((pictures[0][time] == picture).all() for time, picture in pictures[1].items())


@pytest.mark.parametrize("change", [lambda head: head | 4, lambda head: head & ~2, lambda head: 9 << 3 | 2])
def test_nothing_is_known_of_a_packet_of_av1_with_layers_without_a_size_or_of_an_unknown_type(change):
    with av.open(BytesIO(av1())) as container:
        stream = container.streams.video[0]
        references = references_of(stream.codec_context.name, stream.codec_context.extradata)
        packet = bytes(next(container.demux(stream)))
    assert references.kind_of(packet).is_key
    assert references.kind_of(bytes([change(packet[0])]) + packet[1:]) is None
    for length in (0, 1, 2, 9, len(packet) - 1):
        assert references.kind_of(packet[:length]) is None


def test_keyframes_that_others_reach_beyond_are_no_plain_ones():
    _, found = kinds(h265("bframes=3:b-adapt=0:open-gop=1"))
    assert [place for place, kind in enumerate(found) if kind.is_open], "the encoder writes open keyframes"
    assert any(kind.is_leading for kind in found)
    assert [kind.is_key for kind in found].count(True) <= 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(lambda: h264("interlaced=1"), id="fields"),
        pytest.param(lambda: h264(container="mpegts"), id="no lengths"),
        pytest.param(lambda: h265("temporal-layers=2"), id="layers"),
        pytest.param(lambda: numbered_video(20), id="another codec"),
    ],
)
def test_nothing_is_known_of_a_stream_that_is_not_plain(data):
    assert kinds(data())[0] is None


def test_nothing_is_known_of_a_header_that_is_cut_short():
    with av.open(BytesIO(h264())) as container:
        extradata = container.streams.video[0].codec_context.extradata
    assert references_of("h264", extradata) is not None
    for length in range(len(extradata) - 10):
        assert references_of("h264", extradata[:length]) is None


def test_nothing_is_known_of_a_packet_whose_parts_do_not_fill_it():
    references, _ = kinds(h264())
    assert references.kind_of(b"\0\0\0\2\x41\x9a") is not None
    for packet in (b"\0\0\0\3\x41\x9a", b"\0\0\0\0", b"\0\0\0\2\x41\x9a\0", b"\0\0\0\2\x47\x9a", b"\0\0\0\2\x65"):
        assert references.kind_of(packet) is None
