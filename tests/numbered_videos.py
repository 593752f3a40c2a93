"""Small videos whose frames carry their own number, so that a test can read which frames it was given."""

from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np

GRID = 4


def numbered_frame(number, size=(64, 48)):
    """A picture `(h, w, 3)` that shows the 16 bits of `number` as black and white blocks, row by row."""
    bits = np.array([(number >> bit) & 1 for bit in range(GRID * GRID)], dtype=np.uint8).reshape(GRID, GRID)
    blocks = np.kron(bits, np.ones((size[1] // GRID, size[0] // GRID), dtype=np.uint8))
    return np.repeat(blocks[..., None] * 255, 3, axis=-1)


def read_numbers(frames):
    """The numbers that frames `(t, h, w, 3)` show."""
    t, height, width, _ = frames.shape
    blocks = frames.reshape(t, GRID, height // GRID, GRID, width // GRID, 3).mean(axis=(2, 4, 5)) > 127
    return [int((block.flatten() << np.arange(GRID * GRID)).sum()) for block in blocks]


def numbered_video(
    count,
    *,
    rate=10,
    container="mp4",
    codec="mpeg4",
    gop=10,
    times=None,
    size=(64, 48),
    prepare=None,
    first=0,
    **muxer,
):
    """The bytes of a video of `count` numbered frames, one keyframe in `gop`, the lowest number `first`.

    Args:
        times: seconds at which the frames are shown, `count / rate` apart when absent. Each frame stays one packet,
            so times may come in any order if the codec is intra-only.
        prepare: called with the stream before the first frame.
        muxer: options of the container.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        with av.open(str(path), "w", format=container, options=muxer) as output:
            stream = output.add_stream(codec, rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.gop_size = gop
            if prepare is not None:
                prepare(stream)
            pictures = (
                av.VideoFrame.from_ndarray(numbered_frame(first + i, size), format="rgb24") for i in range(count)
            )
            packets = [packet for picture in [*pictures, None] for packet in stream.encode(picture)]
            for index, packet in enumerate(packets):
                if times is not None:
                    packet.time_base = Fraction(1, 1000)
                    packet.pts = round(times[index] * 1000)
                    packet.dts = packet.pts if sorted(times) == list(times) else index - count
                output.mux(packet)
        return path.read_bytes()
