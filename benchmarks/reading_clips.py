"""How many clips a second do we read, beside an older commit of ours and beside other libraries?

    git worktree add ../before 9fb78f3
    python benchmarks/reading_clips.py --before ../before --output_dir runs/reading
    python benchmarks/reading_clips.py --cores 1 2 --workers 0 1 2 --clips 6
    python benchmarks/reading_clips.py --needed            # what decoding alone takes
    python benchmarks/reading_clips.py --memory            # of 1,000 files

Draws files of 40 s, 1280 x 720, 25 pictures a second, and reads five frames out of them, half a second apart, that
end at random times, as RGB of the whole size. Each reader opens the file anew for each clip, as a dataset does, and
has a decoding thread for each core. Ours has one for H.264, whatever the cores. All read the same clip in turns; times
are of the processor, so that other work on the machine counts little. `wall / ours` is the median, over turns, of a
reader's time on the wall over ours. Readers that do not import are left out.

- `torchcodec`: `VideoDecoder.get_frames_played_at`, in both of its modes.
- `transformers`: `transformers.video_utils.load_video` with `backend="pyav"`, as its video processors read.
- `decord`, `OpenCV`: `get_batch`; a seek to each frame.

`--needed` hands the packets of the pictures that ours decodes to FFmpeg's decoder once more, in one thread: no reader
that decodes them can be faster.

With workers, a data loader of PyTorch reads all clips of a reader in each turn, and the time is that of its processes.
"""

import argparse
import gc
import importlib
import importlib.util
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from measuring import hardware, markdown, save
from transformers.video_utils import load_video
from video_sampling import memory
from where_time_goes import RATE, draw_picture

from hmba_hf.models.decoding_needed import PlainStretch
from hmba_hf.models.decoding_video import decode_frames

try:
    from torchcodec.decoders import VideoDecoder
except (ImportError, OSError, RuntimeError):  # the last where it finds no FFmpeg
    VideoDecoder = None
try:
    import decord
except (ImportError, OSError):
    decord = None
try:
    import cv2
except ImportError:
    cv2 = None

Reader = Callable[[str, float], np.ndarray]
FRAMES, STEP = 5, 0.5
SIZE, SECONDS = (1280, 720), 40
AV1 = "libsvtav1"
OPTIONS = {
    "libx264": {"crf": "23", "preset": "veryfast"},
    "libx265": {"crf": "26", "preset": "veryfast", "x265-params": "log-level=error"},
    AV1: {"crf": "35", "preset": "10"},
}
OURS, BEFORE = "ours", "ours before"
WITHOUT_AV1 = ("decord", "OpenCV")  # whose own builds of FFmpeg do not decode it


def write_drive(path: Path, codec: str, keyframes: int, size: tuple[int, int] = SIZE, seconds: int = SECONDS) -> Path:
    """Write a video of a drive, with a keyframe every so many seconds."""
    with av.open(str(path), "w") as output:
        stream: Any = output.add_stream(codec, rate=RATE, options=OPTIONS[codec])
        stream.width, stream.height = size
        stream.pix_fmt, stream.gop_size = "yuv420p", RATE * keyframes
        stream.codec_context.thread_count = 1
        for index in range(RATE * seconds):
            picture = av.VideoFrame.from_ndarray(draw_picture(index, *size), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            output.mux(stream.encode(picture))
        output.mux(stream.encode(None))
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # SVT-AV1 makes root's threads real-time ones
    return path


def wanted(end: float) -> list[float]:
    """Times of the frames of a clip."""
    return [end - STEP * place for place in reversed(range(FRAMES))]


def indices(end: float) -> list[int]:
    """Numbers of the same frames, at the drive's rate."""
    return [int(time * RATE + 1e-6) for time in wanted(end)]


def read_ours(decode: Callable[..., Any], path: str, end: float) -> np.ndarray:
    """Read with `decode_frames`, of this commit or an older one."""
    frames: np.ndarray = decode(path, end, FRAMES, 1 / STEP)[0]
    return frames


def read_torchcodec(mode: str, threads: int, path: str, end: float) -> np.ndarray:
    """Read with torchcodec."""
    decoder = VideoDecoder(path, seek_mode=mode, num_ffmpeg_threads=threads, dimension_order="NHWC")
    frames: np.ndarray = decoder.get_frames_played_at(wanted(end)).data.numpy()
    return frames


def read_transformers(path: str, end: float) -> np.ndarray:
    """Read as the video processors of transformers do."""
    frames: np.ndarray = load_video(path, backend="pyav", sample_indices_fn=lambda **_: np.array(indices(end)))[0]
    return frames


def read_decord(threads: int, path: str, end: float) -> np.ndarray:
    """Read with decord."""
    frames: np.ndarray = decord.VideoReader(path, num_threads=threads).get_batch(indices(end)).asnumpy()
    return frames


def read_opencv(threads: int, path: str, end: float) -> np.ndarray:
    """Read with OpenCV."""
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
    frames = []
    for index in indices(end):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        frames.append(cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return np.stack(frames)


def older_decoder(folder: Path) -> Callable[..., Any]:
    """`decode_frames` of another checkout, whose modules stand beside ours under another name."""
    models = folder / "src" / "hmba_hf" / "models"
    spec = importlib.util.spec_from_file_location(
        "models_before", models / "__init__.py", submodule_search_locations=[str(models)]
    )
    assert spec is not None
    sys.modules["models_before"] = importlib.util.module_from_spec(spec)
    decode: Callable[..., Any] = importlib.import_module("models_before.decoding_video").decode_frames
    return decode


def readers(before: Path | None, threads: int) -> dict[str, Reader]:
    """All readers that can be had, by name; ours and that of transformers count the cores themselves."""
    found: dict[str, Reader] = {OURS: partial(read_ours, decode_frames)}
    if before is not None:
        found[BEFORE] = partial(read_ours, older_decoder(before))
    if VideoDecoder is not None:
        found |= {f"torchcodec, {mode}": partial(read_torchcodec, mode, threads) for mode in ("exact", "approximate")}
    found["transformers, PyAV"] = read_transformers
    if decord is not None:
        found["decord"] = partial(read_decord, threads)
    if cv2 is not None:
        cv2.setNumThreads(1)
        found["OpenCV"] = partial(read_opencv, threads)
    return found


class Clips(torch.utils.data.Dataset):
    """Clips of a file, for a data loader."""

    def __init__(self, read: Reader, path: str, ends: list[float]):
        self.read, self.path, self.ends = read, path, ends

    def __len__(self) -> int:
        """The number of clips."""
        return len(self.ends)

    def __getitem__(self, place: int) -> torch.Tensor:
        """Read a clip."""
        return torch.from_numpy(self.read(self.path, self.ends[place]))


class Spent(NamedTuple):
    """Seconds a clip: of the processor, with child processes, and on the wall."""

    processor: float
    wall: float


def timed(read: Callable[[], Any], clips: int) -> tuple[Spent, Any]:
    """Return the seconds a clip of a call that reads so many, and what it returns."""
    processor, wall = processor_time(), time.perf_counter()
    result = read()
    return Spent((processor_time() - processor) / clips, (time.perf_counter() - wall) / clips), result


def processor_time() -> float:
    """Seconds of this process, and of those that it has started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def load(clips: Clips, workers: int) -> None:
    """Read clips by a data loader."""
    gc.collect()  # containers that nobody closed: a worker would wait for their decoding threads, which it has not
    for _ in torch.utils.data.DataLoader(clips, batch_size=None, num_workers=workers):
        pass


def compare(path: str, ends: list[float], found: dict[str, Reader], workers: int, turns: int) -> list[dict[str, Any]]:
    """Time all readers in turns; a row for each."""
    spent: dict[str, list[Spent]] = {name: [] for name in found}
    differences: dict[str, list[float]] = {name: [] for name in found}
    for end in ends if workers == 0 else ends[:1]:
        clips = {}
        for name, read in found.items():
            took, clips[name] = timed(partial(read, path, end), 1)
            spent[name].append(took)
        for name, clip in clips.items():
            differences[name].append(float(np.abs(clip.astype(np.int16) - clips[OURS]).mean()))
    if workers:
        spent = {name: [] for name in found}
        for _ in range(turns):
            for name, read in found.items():
                spent[name].append(timed(partial(load, Clips(read, path, ends), workers), len(ends))[0])
    ours = statistics.mean(each.processor for each in spent[OURS])
    rows = []
    for name, each in spent.items():
        processor = statistics.mean(took.processor for took in each)
        wall = statistics.median(took.wall / own.wall for took, own in zip(each, spent[OURS], strict=True))
        rows.append(
            {
                "reader": name,
                "clips a second": f"{1 / processor:.2f}",
                "ms a clip": f"{1e3 * processor:.0f}",
                "time / ours": f"{processor / ours:.2f}",
                "wall / ours": f"{wall:.2f}",
                "difference": f"{statistics.mean(differences[name]):.3f}",
            }
        )
    return rows


def measure_needed(path: str, ends: list[float]) -> list[dict[str, str]]:
    """Time the decoding of the pictures that a clip needs beside readers; rows of means over clips."""
    times: dict[str, list[float]] = {}
    counts: list[tuple[int, int]] = []
    packets: list[bytes] = []
    needed = PlainStretch._needed

    def noting(stretch: PlainStretch, wanted: frozenset[int]) -> list[Any]:
        found = needed(stretch, wanted)
        counts.append((len(stretch.ticks), len(found)))
        packets[:] = [bytes(packet) for packet in found]
        return found

    PlainStretch._needed = noting
    with av.open(path) as container:
        stream = container.streams.video[0]
        for end in ends:
            for name, read in readers(None, 1).items():
                if name == OURS or name.startswith("torchcodec"):
                    times.setdefault(name, []).append(timed(partial(read, path, end), 1)[0].processor)
            decode = partial(decode_packets, stream.codec_context, packets)
            times.setdefault("decoding alone", []).append(timed(decode, 1)[0].processor)
    PlainStretch._needed = needed
    read, decoded = (statistics.mean(count) for count in zip(*counts, strict=True))
    print(f"{read:.0f} pictures a stretch, of which {decoded:.0f} are decoded\n")
    alone = statistics.mean(times["decoding alone"])
    means = {name: statistics.mean(spent) for name, spent in times.items()}
    return [
        {"what": name, "ms a clip": f"{1e3 * mean:.1f}", "time / decoding alone": f"{mean / alone:.2f}"}
        for name, mean in means.items()
    ]


def decode_packets(known: Any, packets: list[bytes]) -> None:
    """Decode packets in one thread, as the stream of a decoder that is known."""
    decoder: Any = av.CodecContext.create(known.codec, "r")
    decoder.extradata = known.extradata
    decoder.thread_count, decoder.thread_type = 1, "NONE"
    for packet in [*map(av.Packet, packets), None]:
        decoder.decode(packet)


def measure_memory(folder: Path, count: int) -> None:
    """Read a clip of each of many files, and print the process's memory and open files on the way."""
    drive = write_drive(folder / "drive.mp4", "libx264", 2, (320, 180), 12)
    rows = []
    for number in range(1, count + 1):
        path = folder / f"{number}.mp4"
        os.link(drive, path)
        read_ours(decode_frames, str(path), 2.5 + number % 8)
        if number in (count // 10, count // 2, count):
            files = len(os.listdir("/proc/self/fd"))
            rows.append({"files read": number, "memory": f"{memory('VmRSS'):.1f} MiB", "open files": files})
    print(markdown(rows))


def draw(records: list[dict[str, Any]], axis: Any) -> None:
    """Draw the time of each reader over ours, a group for each file."""
    names = list(dict.fromkeys(row["reader"] for record in records for row in record["rows"]))
    for place, name in enumerate(names):
        heights = [
            next((float(row["time / ours"]) for row in record["rows"] if row["reader"] == name), 0.0)
            for record in records
        ]
        axis.bar(np.arange(len(records)) + 0.8 * place / len(names), heights, 0.8 / len(names), label=name)
    axis.set_xticks(np.arange(len(records)) + 0.4, [record["file"] for record in records], fontsize=8)
    axis.set_yscale("log")
    axis.set_ylabel("processor's time a clip, ours = 1")
    axis.legend(fontsize=8)


def main() -> None:
    """Draw files, read them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codecs", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--keyframes", nargs="+", type=int, default=[5], help="seconds from one to the next")
    parser.add_argument("--workers", nargs="+", type=int, default=[0], help="of a data loader; 0 reads in turns")
    parser.add_argument("--cores", nargs="+", type=int, default=[1], help="that may be used, and decoding threads")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--turns", type=int, default=2, help="with workers")
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--folder", type=Path, help="where the files are drawn, unless they are there already")
    parser.add_argument("--needed", action="store_true", help="decode what ours does once more, and nothing else")
    parser.add_argument("--memory", action="store_true", help="of many files, and no times")
    parser.add_argument("--files", type=int, default=1000, help="of --memory")
    parser.add_argument("--quick", action="store_true", help="small files, to see that all is well")
    parser.add_argument("--output_dir", help="write results.json and a plot here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{hardware()}, PyAV {av.__version__}, FFmpeg's libavcodec {av.library_versions['libavcodec']}\n")
    size, seconds = ((160, 96), 10) if args.quick else (SIZE, SECONDS)
    records = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.memory:
            measure_memory(Path(temporary), args.files)
            return
        available = sorted(os.sched_getaffinity(0))
        pictures = np.random.default_rng(1).integers(2 * RATE, (seconds - 1) * RATE, args.clips)
        ends = [(int(picture) + 0.25) / RATE for picture in pictures]  # no time is near the next picture
        for codec in args.codecs:
            for keyframes in args.keyframes:
                path = folder / f"{codec}_{keyframes}.mp4"
                if not path.exists():
                    write_drive(path, codec, keyframes, size, seconds)
                if args.needed:
                    os.sched_setaffinity(0, available[:1])
                    print(f"{codec}, {keyframes} s")
                    print(f"{markdown(measure_needed(str(path), ends))}\n", flush=True)
                    continue
                for cores, workers in product(args.cores, args.workers):
                    os.sched_setaffinity(0, available[:cores])
                    found = readers(args.before, cores)
                    if codec == AV1:
                        found = {name: read for name, read in found.items() if name not in WITHOUT_AV1}
                    rows = compare(str(path), ends, found, workers, args.turns)
                    title = f"{codec}, {keyframes} s, cores: {cores}, workers: {workers}"
                    print(f"{title}\n\n{markdown(rows)}\n", flush=True)
                    records.append({"file": title, "rows": rows})
    save(args.output_dir, records, {"reading_clips": partial(draw, records)})


if __name__ == "__main__":
    main()
