"""What packets alone show of a video that is plain: when it starts, when it ends, a stretch for a clip."""

from fractions import Fraction

import av

from .decoding_needed import PlainPart, PlainStretch
from .decoding_references import References, references_of
from .decoding_streams import FAR_FUTURE, OpenVideo

# Formats whose packets have the times of their pictures, and an index that leads to keyframes.
PLAIN_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


def references_in(video: OpenVideo) -> References | None:
    """Return the rules by which pictures of a video refer to others; `None` where its stretches are not plain."""
    if video.is_counted or video.has_decoding_times_alone or video.container.format.name not in PLAIN_FORMATS:
        return None
    codec = video.stream.codec_context
    return references_of(codec.name, codec.extradata)


class PlainReader:
    """The plain stretches of one open video, each from the keyframe to which a seek leads.

    Where packets are not plain, the answer is `None`.
    """

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._references = references_in(video)

    def origin(self) -> Fraction | None:
        """Seconds on the container's clock to the first frame shown, from the first packets.

        The video, which stands at its start, is to be read from there or sought in afterwards.
        """
        if self._references is None:
            return None
        stretch = PlainStretch(self._video, self._references)
        if stretch.read(until=None):
            return Fraction(stretch.ticks[0] * self._video.stream.time_base)
        self._video.close()
        self._video.open()
        return None

    def stretch(self, start: float, origin: Fraction) -> PlainStretch | None:
        """The stretch from the keyframe before a time on, in seconds from the origin, of which nothing is read yet."""
        if self._references is None:
            return None
        try:
            self._video.seek(start, origin)
        except av.FFmpegError:
            return None
        self._video.start_reading(self._video.packets)
        return PlainStretch(self._video, self._references, origin)

    def last_stretch(self, origin: Fraction) -> PlainPart | None:
        """What the last stretch shows, up to the last frame; `None` also where packets lack that were promised."""
        stretch = self.stretch(FAR_FUTURE, origin)
        end = None if stretch is None else stretch.whole()
        packets = self._video.packets
        if end is None or end.last < 0 or packets.may_hide_a_file or packets.shortfall(origin) is not None:
            return None
        return end
