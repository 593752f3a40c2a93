"""Does a clip of a ten-minute file cost more than one of a ten-second file?

Makes both files, checks that they give the same number of frames of the right times, then samples five frames that
end at the last second of each, and eight that spread over each, every time in a fresh process and in turns, and prints
time and memory. Fails if the long file costs more than twice as much of either.

    python benchmarks/video_sampling.py
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from hmba_hf.models.decoding_video import decode_frames, decode_segments

RATE, GOP, SIZE = 25, 50, (320, 180)
MAX_RATIO = 2.0
SPREAD = "spread"  # over the whole file, in the place of a timestamp


def write_video(path: Path, seconds: int) -> None:
    """Write a picture with a moving square, 25 frames a second, a keyframe every two seconds."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", GOP
        picture = np.random.default_rng(0).integers(0, 96, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        for index in range(seconds * RATE):
            frame = picture.copy()
            left = index * 3 % (SIZE[0] - 40)
            frame[60:100, left : left + 40] = 255
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))


def memory(field: str) -> float:
    """A field of this process's memory status (`VmRSS` now, `VmHWM` at its peak), in MiB; Linux only."""
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index(f"{field}:") + 1]) / 1024


def sample(path: str, timestamp: float | str | None) -> dict:
    """Sample one clip and tell its cost: seconds, and how far memory rose above what the process held before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = memory("VmRSS"), time.perf_counter()
    if timestamp == SPREAD:
        frames, metadata = decode_segments(path, num_frames=8)
    else:
        frames, metadata = decode_frames(path, timestamp)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "memory": memory("VmHWM") - before,
        "times": metadata.timestamps,
        "frames": len(frames),
    }


def check(run: dict, seconds: int, timestamp: float | str | None) -> None:
    """Fail unless a clip has the frames that were asked for."""
    if timestamp == SPREAD:
        expected = [(2 * segment + 1) * seconds / 16 for segment in range(8)]
    else:
        last = seconds - 1 / RATE if timestamp is None else float(timestamp)
        expected = [last - step / 2 for step in range(4, -1, -1)]
    assert np.allclose(run["times"], expected, atol=1 / RATE) and run["frames"] == len(expected), run


def sample_apart(path: Path, timestamp: float | str | None) -> dict:
    """Sample one clip in a process of its own."""
    command = [sys.executable, __file__, "--path", str(path), "--timestamp", json.dumps(timestamp)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(repeats: int) -> None:
    """Make the files, check, time in turns, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        lengths = (10, 600)
        paths = {seconds: Path(folder) / f"{seconds}.mp4" for seconds in lengths}
        for seconds, path in paths.items():
            write_video(path, seconds)
        ratios: dict[str, list[float]] = {}
        cases = {
            "5, to the last second": lambda seconds: seconds - 1.0,
            "5, to the last frame": lambda seconds: None,
            "8, over the whole file": lambda seconds: SPREAD,
        }
        print(f"{platform.platform()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores")
        print(f"Python {platform.python_version()}, PyAV {av.__version__}, medians of {repeats} interleaved runs\n")
        print("| frames | file | size | time | extra memory |\n|---|---|---|---|---|")
        for label, timestamp in cases.items():
            runs: dict[int, list[dict]] = {seconds: [] for seconds in lengths}
            for _ in range(repeats):
                for seconds, path in paths.items():
                    run = sample_apart(path, timestamp(seconds))
                    check(run, seconds, timestamp(seconds))
                    runs[seconds].append(run)
            medians = {
                seconds: [statistics.median(run[key] for run in runs[seconds]) for key in ("seconds", "memory")]
                for seconds in lengths
            }
            for seconds, (spent, extra) in medians.items():
                size = paths[seconds].stat().st_size / 2**20
                print(f"| {label} | {seconds} s | {size:.1f} MiB | {spent * 1e3:.1f} ms | {extra:.1f} MiB |")
            ratios[label] = [round(long / short, 2) for long, short in zip(medians[600], medians[10], strict=True)]
            print(f"| {label} | ratio | | {ratios[label][0]:.2f} | {ratios[label][1]:.2f} |")
    assert max(map(max, ratios.values())) <= MAX_RATIO, (
        f"expected the long file to take at most {MAX_RATIO} times the time and memory of the short one, got {ratios}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--path", help="sample this file once and print the cost as JSON")
    parser.add_argument("--timestamp", type=json.loads, default=None)
    options = parser.parse_args()
    if options.path:
        print(json.dumps(sample(options.path, options.timestamp)))
    else:
        main(options.repeats)
