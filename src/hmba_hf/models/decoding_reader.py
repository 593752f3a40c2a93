"""One open video that is read from any time on: where to seek, which frames to choose, what warnings they need."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import numpy as np

from .decoding_choice import LONGEST_STEP, Choice, Progress, Scan
from .decoding_containers import SourceLimits, VideoDecodeError
from .decoding_metadata import Known, check_duration, metadata_of_video
from .decoding_needed import PlainPart
from .decoding_packets import Shortfall, find_step_back
from .decoding_pictures import ClipPictures, picture_or_error
from .decoding_plain import PlainReader
from .decoding_streams import FAR_FUTURE, OpenVideo
from .decoding_timeline import REORDER_FRAMES, Moment, begins_anew
from .sampling_video import LONGEST_ROUNDING, TIME_TOLERANCE, ClipMetadata


class VideoReader:
    """One open video whose frames can be read from any time on, on a clock that starts at its first frame."""

    def __init__(self, source: Any, name: str, limits: SourceLimits, source_fps: float | None) -> None:
        self.name = name
        self.limits = limits
        self.prepare: Callable[[Any], np.ndarray] | None = None  # makes of a picture what is kept of it
        self.prepares_rows = False  # whether it takes `PictureRows`, too
        self.damage: Exception | None = None  # behind the last frame of what is read
        self.concealed_from: Fraction | float = math.inf
        self.end: float | None = None  # of the last frame, once it has been decoded
        self.count: int | None = None  # of all frames, once they have been decoded
        self.seen_until = Fraction(0)  # the latest time of any frame that has been decoded
        self.shown_until = Fraction(0)  # the end of that frame
        self.has_breaks = False  # whether its clock has gone back
        self.is_steady = True  # whether frames that follow each other have been `1 / rate` apart
        self.video = OpenVideo(source, name, None, limits, source_fps, is_read_in_parts=True)
        try:
            self._find_origin()
            check_duration(self.video, self.origin, limits)
        except BaseException:
            self.video.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.video.close()

    def clip(self, scan: Scan, only_whole: bool) -> tuple[np.ndarray, ClipMetadata]:
        """Return the frames of a clip in the order of their times, and their metadata, with warnings of damage."""
        order = sorted(range(len(scan.chosen)), key=lambda place: scan.chosen[place].time)
        chosen = [scan.chosen[place] for place in order]
        if only_whole and not all(moment.is_whole for moment in chosen):
            raise self.video.mended_error(next(float(moment.time) for moment in chosen if not moment.is_whole))
        self.warn_of_other_recordings()
        self.video.warn_of_the_end()
        if self.concealed_from <= chosen[-1].time:
            self.video.warn_of_damage(float(self.concealed_from))
        frames = scan.clip.made(order)
        return frames, self.metadata(scan.clip.size, [float(moment.time) for moment in chosen])

    def _find_origin(self) -> None:
        """Set the clock to zero at the first frame shown, and find out whether frames carry timestamps."""
        self.has_times = True
        self._plain = PlainReader(self.video)
        origin = self._plain.origin()
        times: list[Any] = [] if origin is None else [origin]
        decoded = self._first_decoded() if origin is None else ()
        for moment in self.video.timeline().place(decoded, Fraction(0)):
            if moment.recording == 0:
                times.append(moment.time)
            del moment  # before the next one is decoded
        if not times:
            reason = f": {self.damage}" if self.damage else ""
            raise VideoDecodeError(f"{self.name} holds no frame that can be decoded{reason}")
        self.origin = min(times)
        self.can_seek = self.has_times and self.video.packets.can_seek
        video = self.video
        self._step_back = find_step_back(video.container, video.stream, video.source) if self.has_times else None
        if self._step_back is not None and begins_anew(*self._step_back, self.origin):
            self._step_back = self._step_back[0], self.origin
            self.can_seek = False  # to a recording whose clock is its own

    def _first_decoded(self) -> Iterator[av.VideoFrame]:
        """Decode the first frames, none of which is kept, and note whether they have times."""
        count = 0
        for frame in self.video.decode():
            if isinstance(frame, Exception):
                self.damage = frame
                continue
            self.has_times = self.has_times and self.video.stamp_of(frame) is not None
            yield frame
            del frame  # before the next one is decoded
            count += 1
            if count == REORDER_FRAMES:
                return

    def warn_of_other_recordings(self) -> None:
        """Log that the clock goes back in a part of the file that was not read, as far as known."""
        if self._step_back is not None and not self.has_breaks:
            self.video.warn_of_step_back(*self._step_back, self.origin)
            self.has_breaks = True
        self.has_breaks = self.has_breaks or self.video.packets.goes_on

    @property
    def may_have_breaks(self) -> bool:
        """Whether the clock is known to go back somewhere in the file."""
        return self.has_breaks or self._step_back is not None

    @property
    def tolerance(self) -> float:
        """Seconds by which a time may miss its frame, whose own time the container may have rounded."""
        tick = float(self.video.stream.time_base)
        if not self.has_times or tick > 2 * LONGEST_ROUNDING:  # ticks of pictures or fields, which are exact
            return TIME_TOLERANCE
        return min(tick, LONGEST_ROUNDING) + TIME_TOLERANCE

    def read(self, start: float | None) -> Iterator[Moment]:
        """Yield frames and their times from the keyframe before `start` on, or from the first frame for `None`."""
        video = self.video
        self.damage, self.concealed_from = None, math.inf
        if start is None:
            video.close()
            video.open()
        else:
            try:
                video.seek(start, self.origin)
            except av.FFmpegError:
                return
            video.start_reading(video.packets)
        count = 0
        lacks_frames = False
        before: Moment | None = None
        decoded = video.decode() if start is None else video.decode_after_seek()
        for moment in video.timeline(self.origin).place(decoded, self.origin if start is None else None):
            if isinstance(moment.frame, Exception):
                self.damage = self.damage or moment.frame
                continue
            moment = video.seen(moment)._replace(time=moment.time - self.origin)
            if self.damage is not None and not moment.is_whole:
                continue  # it depends on what is lost
            lost = self.damage or self._lost_between(before, moment)
            if lost is not None:
                moment = moment._replace(lost_before=lost)
                self.concealed_from = min(self.concealed_from, moment.time if before is None else before.time)
                self.damage = before = None
                lacks_frames = True
            if not moment.is_whole:
                self.concealed_from = min(self.concealed_from, moment.time)
            self.is_steady = self.is_steady and (before is None or self._is_next(before, moment))
            self.has_breaks = self.has_breaks or moment.recording > 0
            if moment.time >= self.seen_until:
                self.seen_until = moment.time
                self.shown_until = moment.time + self.video.shown_for(moment.frame)
            before = moment._replace(frame=None)
            count += 1
            yield moment
            del moment  # before the next one is decoded
        if start is None and video.packets.has_ended and not lacks_frames:
            self.count = count

    def _lost_between(self, before: Moment | None, moment: Moment) -> Exception | None:
        """Why frames lack in the place of damage: those of a steady rate leave out no step."""
        if before is None or not self.is_steady or before.recording != moment.recording:
            return None
        is_damaged = not (before.is_whole and moment.is_whole)
        if not is_damaged or moment.time - before.time < LONGEST_STEP / self.video.rate:
            return None
        return ValueError("the data before and behind do not join up")

    def _is_next(self, before: Moment, moment: Moment) -> bool:
        step = moment.time - before.time
        return moment.recording == before.recording and abs(step - 1 / self.video.rate) <= self.video.stream.time_base

    def starts_before(self, time: float, is_last: bool) -> Iterator[float | None]:
        """Yield ever earlier times from which to try to read, at last `None`: the start of the file.

        Of several recordings, only the last one is found by its times.
        """
        time, step = min(time, FAR_FUTURE), 0.0
        while self.can_seek and (is_last or self._step_back is None) and time - step > 0:
            yield time - step
            step = max(1.0, 2 * step)
        yield None

    def last_time(self) -> float:
        """Time of the last frame, found from the last keyframe on; damage in that stretch is an error."""
        expected = self.header_duration()
        starts = [FAR_FUTURE] if self.can_seek and expected is not None else []
        last: Fraction | None = None
        trouble: VideoDecodeError | None = None
        for start in [*starts, *self.starts_before(FAR_FUTURE if expected is None else expected, True)]:
            count = 0
            latest: Moment | None = None
            shown_for = Fraction(0)
            for moment in self.read(start):
                count += 1
                if latest is None or moment.recording > latest.recording or moment.time >= latest.time:
                    latest = moment._replace(frame=None)
                    shown_for = self.video.shown_for(moment.frame)
                del moment  # before the next one is decoded
            if latest is None:
                continue
            if start is None:
                self.video.warn_of_the_end()
            elif self.video.packets.may_hide_a_file or latest.time < 0:
                self.can_seek = False
                return self.last_time()
            if last is None:
                trouble = self._trouble(latest.time, "the last frame")
            # More frames before it show what the stamp of the last one is worth.
            if last is None or self.damage is None:
                last = latest.time
                self.end = float(last + shown_for)
            # After a shorter stretch, the last frame might be one out of order that precedes it.
            if count > REORDER_FRAMES or trouble is not None:
                break
        if trouble is not None or last is None:
            raise trouble or self._damaged(0.0, "the last frame")
        return float(last)

    def _plain_end(self) -> PlainPart | None:
        """What the last stretch shows, from packets alone; `None` where it is not plain, or may not be the last."""
        if not self.can_seek or self.may_have_breaks or self.header_duration() is None:
            return None
        return self._plain.last_stretch(self.origin)

    def span(self) -> tuple[float, float, float]:
        """Times of the first and of the last frame of the last recording, and of its end; errors as `last_time`.

        Where the last frames are plain, they are not decoded for it, and damage of theirs is none of the span's.
        """
        plain = self._plain_end()
        if plain is not None:
            self._note(plain)
            self.end = float(plain.shown_until)
            return 0.0, float(plain.last), self.end
        last = self.last_time()
        end = last if self.end is None else self.end
        if not self.may_have_breaks:
            return 0.0, last, end
        first = math.inf
        recording = 0
        for moment in self.read(None):
            if moment.recording > recording:
                recording = moment.recording
                first = math.inf
            first = min(first, float(moment.time))
            del moment  # before the next one is decoded
        return first, last, end

    def duration(self) -> float:
        """Seconds to the end of the last frame, or of the longest recording that was met on the way to it.

        Where the end is damaged, it is the duration of the header, and infinite where the header has none.
        """
        self.can_seek = self.can_seek and self._step_back is None
        try:
            last = self.last_time()
        except VideoDecodeError:
            promised = (self.header_duration(), self.video.packets.promised_duration(self.origin))
            return max((duration for duration in promised if duration is not None), default=math.inf)
        self.video.warn_of_the_end()
        return max(last if self.end is None else self.end, float(self.shown_until))

    def select_last(self, wanted_before: Callable[[float], list[float]]) -> Scan:
        """Choose the frames of a clip that ends with the last frame of the file.

        Args:
            wanted_before: returns the wanted times, which ascend, from that of the last frame.
        """
        end = self._plain_end()
        if end is not None:
            wanted = wanted_before(float(end.last))
            scan = self._plain_scan(max(wanted[0], 0.0), wanted, is_last=True)
            if scan is not None:
                self.end = scan.came.until
                return scan
        return self.select(wanted_before(self.last_time()), is_last=True)

    def select(self, wanted: list[float], is_last: bool) -> Scan:
        """Choose the latest frame not after each of the wanted times, which ascend.

        Args:
            is_last: whether the last wanted time is that of the last frame of the file.
        """
        for start in self.starts_before(wanted[0], is_last):
            scan = self._scan(start, wanted, is_last)
            slack = 0.0 if scan.came.in_order else float(REORDER_FRAMES / self.video.rate)
            reaches_back = scan.first_time <= wanted[0] - slack + TIME_TOLERANCE
            if is_last and abs(scan.came.last - wanted[-1]) > TIME_TOLERANCE and start is not None:
                continue  # the stretch leads to another end
            if start is None or reaches_back or scan.is_whole_recording:
                break
        self._check_for_losses(scan, wanted, is_last)
        self._check_reached(scan, wanted[-1], is_last)
        return scan

    def clip_of_stretches(self, wanted: list[float], last: float, only_whole: bool) -> tuple[np.ndarray, ClipMetadata]:
        """Return the frames at times that ascend, and their metadata, reading only what they need.

        Args:
            wanted: times up to `last`.
            last: time of the last frame.
            only_whole: as in `clip`.
        """
        if self.may_have_breaks:
            return self.clip(self.select(wanted, is_last=True), only_whole)
        rows: np.ndarray | None = None
        size: tuple[int, int] | None = None
        times: list[float] = []
        for stretch in self._stretches(wanted):
            scan = self.select(stretch, is_last=stretch[-1] == last)
            frames, described = self.clip(scan, only_whole)
            if rows is None:
                rows = np.empty((len(wanted), *frames.shape[1:]), frames.dtype)
                size = scan.clip.size
            if scan.clip.size != size:
                raise VideoDecodeError(f"{self.name} changes its frame size within the clip, to {scan.clip.size}")
            rows[len(times) : len(times) + len(frames)] = frames
            times += described.timestamps
        assert rows is not None, "a clip has a frame"
        return rows, self.metadata(size, times)

    def _stretches(self, wanted: list[float]) -> list[list[float]]:
        """Part times where so much is left out by a seek to a keyframe between them that it is worth the seek."""
        least = self.tolerance + float(REORDER_FRAMES / self.video.rate)  # what is read after each stretch
        stretches = [wanted[:1]]
        for before, time in pairwise(wanted):
            is_far = self.can_seek and time > before + least
            keyframe = self.video.keyframe_before(time, self.origin) if is_far else None
            if keyframe is not None and keyframe > before + least:
                stretches.append([])
            stretches[-1].append(time)
        return stretches

    def _scan(self, start: float | None, wanted: list[float], is_last: bool, passes_over: bool = True) -> Scan:
        """Read from `start` to a little after the last wanted time, keeping only the frames that are wanted.

        Where another recording begins, the frames before it are forgotten unless they are all that is wanted. With
        `passes_over`, frames that the next ones should replace are; where one is missing, all is read again.
        """
        if passes_over and not is_last and (scan := self._plain_scan(start, wanted)) is not None:
            return scan
        choice = self._choice(wanted, passes_over)
        came, beyond = Progress(), 0
        for moment in self.read(start):
            time = float(moment.time)
            if moment.recording > came.recording:
                if not is_last and wanted[-1] < came.until:
                    break
                choice = self._choice(wanted, passes_over)
                came, beyond = Progress(moment.recording), 0
            elif choice.is_empty and start is not None and time > wanted[0] + TIME_TOLERANCE and not is_last:
                return Scan([], choice.clip, Progress(0, time, time), math.inf, False, False)
            shown_for = float(self.video.shown_for(moment.frame))
            choice.offer(moment, shown_for)
            came.note(moment, shown_for)
            beyond += time > wanted[-1] + self.tolerance
            if beyond > REORDER_FRAMES and not is_last:
                break
            del moment  # before the next one is decoded
        chosen = choice.made()
        if choice.lacks_picture:
            return self._scan(start, wanted, is_last, passes_over=False)
        return Scan(chosen, choice.clip, came, choice.first_time, beyond > 0, came.recording > 0)

    def _plain_scan(self, start: float | None, wanted: list[float], is_last: bool = False) -> Scan | None:
        """Scan as `_scan` does, but decode only what is needed; `None` where the stretch is not plain."""
        if start is None or self.may_have_breaks:
            return None
        stretch = self._plain.stretch(start, self.origin)
        if stretch is None:
            return None
        found = stretch.clip(wanted, self.tolerance, self._pictures(count=len(wanted)), self._picture, is_last)
        if found is None:
            return None
        self.damage, self.concealed_from = None, math.inf
        self._note(found.read)
        return found.scan

    def _note(self, part: PlainPart) -> None:
        self.is_steady &= part.is_steady
        if part.last >= self.seen_until:
            self.seen_until, self.shown_until = part.last, part.shown_until

    def _choice(self, wanted: list[float], passes_over: bool) -> Choice:
        pictures = self._pictures(count=len(wanted))
        return Choice(wanted, self.tolerance, self._picture, pictures, passes_over)

    def _pictures(self, **numbers: int) -> ClipPictures:
        return ClipPictures(self.name, prepare=self.prepare, **numbers)

    def _picture(self, frame: av.VideoFrame) -> Any:
        may_be_rows = self.prepare is None or self.prepares_rows
        return picture_or_error(frame, self.video.stream, self.name, self.limits, may_be_rows)

    def read_all(self, end: float, is_last: bool) -> Scan:
        """Read every frame up to `end`, of the recording which shows that time or, with `is_last`, of the last one."""
        moments: list[Moment] = []
        expected = int(end * self.video.rate) + REORDER_FRAMES
        clip = self._pictures(expected=expected)
        came = Progress()
        for moment in self.read(None):
            time = float(moment.time)
            if moment.recording > came.recording:
                if not is_last and end < came.until:
                    break
                moments = []
                clip = self._pictures(expected=expected)
                came = Progress(moment.recording)
            came.note(moment, float(self.video.shown_for(moment.frame)))
            if time <= end + self.tolerance:
                clip.put([len(moments)], self._picture(moment.frame))
                moments.append(moment._replace(frame=None))
            elif came.last > end + REORDER_FRAMES / self.video.rate and not is_last:
                break
            del moment  # before the next one is decoded
        scan = Scan(moments, clip, came, 0.0, came.last > end + self.tolerance, True)
        self._check_for_losses(scan, [start for start, _, _ in came.lost if start <= end], is_last)
        self._check_reached(scan, end, is_last)
        return scan

    def _check_for_losses(self, scan: Scan, wanted: list[float], is_last: bool) -> None:
        """Raise where what is shown at a wanted time cannot be decoded, although frames before and behind it can.

        Behind what is lost of a stream whose pictures are counted, only the last one is known.
        """
        for start, end, cause in scan.came.lost:
            if self.video.is_counted:
                end = start if is_last else math.inf
            time = next((time for time in wanted if start - TIME_TOLERANCE <= time < end - self.tolerance), None)
            if time is not None:
                raise VideoDecodeError(
                    f"{self.name} is damaged: the frame at {time:.3f} s cannot be decoded, because frames after "
                    f"{max(start, 0.0):.3f} s are lost ({cause})"
                )

    def _check_reached(self, scan: Scan, wanted: float, is_last: bool) -> None:
        """Raise unless decoding came far enough to know which frame is shown at the last wanted time."""
        if scan.passed_end or wanted < scan.came.until - TIME_TOLERANCE:
            return
        trouble = self._trouble(scan.came.last, f"the frame at {wanted:.3f} s")
        if trouble is not None:
            raise trouble
        if is_last and not scan.chosen:
            raise self._damaged(scan.came.last, "the last frame")
        if wanted > scan.came.until + TIME_TOLERANCE and not is_last:
            self.video.warn_of_the_end()
            end = round(max(scan.came.until, float(self.shown_until)), 6)  # of the longest recording
            raise ValueError(f"timestamp {wanted:.3f} s lies outside {self.name}, which ends at {end} s")

    def _trouble(self, last: Fraction | float, wanted: str) -> VideoDecodeError | None:
        """Why there may be more than the frames decoded up to `last`; `None` where they are all."""
        missing = self._shortfall()
        if self.damage is None and missing is None:
            return None
        if missing is not None:
            promise = f"its frames end at {missing.came:.3f} of {missing.promised:.3f} s"
            self.damage = self.damage or ValueError(promise)
        return self._damaged(last, wanted)

    def _shortfall(self) -> Shortfall | None:
        """What is missing; a header may owe its duration to a stray timestamp anywhere, so all packets are read."""
        missing = self.video.packets.shortfall(self.origin)
        if missing is None or missing.is_indexed:
            return missing
        self.video.close()
        self.video.open()
        for _ in self.video.packets:
            pass
        return self.video.packets.shortfall(self.origin)

    def _damaged(self, last: Fraction | float, wanted: str) -> VideoDecodeError:
        cause = self.damage or "the data end early"
        return VideoDecodeError(
            f"{self.name} is damaged: {wanted} cannot be decoded, because decoding stopped after the frame at "
            f"timestamp={round(float(last), 6)} ({cause})"
        )

    def header_duration(self) -> float | None:
        """Seconds that the header gives for the video stream, or for the whole file; `None` where it gives none."""
        return self.video.packets.header_duration(self.origin)

    def metadata(self, size: tuple[int, int] | None, times: list[float]) -> ClipMetadata:
        """Describe a clip whose frames, of a height and a width, are shown at `times`."""
        known = Known(self.origin, self.end, self.count, self.seen_until, self.has_breaks, self.is_steady)
        return metadata_of_video(self.video, known, size, times)
