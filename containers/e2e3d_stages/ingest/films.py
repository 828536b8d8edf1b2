"""Films become photos: in each window of equal time the sharpest frame, as long as the camera moves.

A film is decoded once, one frame at a time. Frames are judged small and grey; a whole one is kept only while it is the
best of its window.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.stream import Discard, Disposition
from PIL import Image

from e2e3d_stages.contract.damage import is_damage
from e2e3d_stages.ingest.copies import cells_of, same
from e2e3d_stages.ingest.exif import Exif, Gps, place_on_earth, printable
from e2e3d_stages.ingest.frames import picture_of
from e2e3d_stages.ingest.pixels import Memory, Unreadable
from e2e3d_stages.ingest.sharpness import LONG_SIDE, sharpness
from e2e3d_stages.ingest.telemetry import places_in
from e2e3d_stages.ingest.tracks import Track
from e2e3d_stages.store.captures import Source

# Of all films together, where there are not fewer: enough to go around a thing once.
FEWEST_FRAMES = 150
FRAMES_PER_SECOND = 4
# In seconds: enough frames to choose from.
SHORTEST_WINDOW = 0.1
# FFmpeg's names of what a film may come in. Playlists are not among them: they name other files, and other machines.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,asf,flv"
# A frame as its decoder holds it: 10 bits with halved colours; and how many it holds besides one for each thread.
FRAME_BYTES = 3
FRAMES_HELD = 10
MAX_THREADS = 4
# In px: the largest that any codec divides a picture into.
BLOCK = 128
MAX_SECONDS = 86_400.0
# Of a packet that may tell where the camera was, and of all that are told: 18 a second for hours.
MOST_DATA_BYTES, MOST_PLACES = 2**20, 200_000

# Latitude, longitude and perhaps height in ISO 6709's decimal degrees, as phones and cameras write them.
_PLACE = re.compile(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)([+-]\d{1,5}(?:\.\d+)?)?")
_PLACES = ("com.apple.quicktime.location.ISO6709", "location", "location-eng")


class Unused(Exception):
    """A film that is fine and gives no frame, and why, in words."""


@dataclass(frozen=True)
class Film:
    """What a film's headers tell.

    :param size: of its frames in px, as they are stored.
    :param seconds: from `start` to `end`, as far as they lie in it.
    :param start: where its frames begin, in seconds from the film's beginning.
    :param exif: what a photo's EXIF would say.
    :param track: where the camera was while it filmed, where the film tells.
    """

    source: Source
    size: tuple[int, int]
    seconds: float
    start: float
    end: float
    exif: Exif
    track: Track = ()

    @property
    def memory(self) -> int:
        """Bytes that its decoder takes at most."""
        return FRAME_BYTES * (FRAMES_HELD + MAX_THREADS) * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Frame:
    """One frame that is taken.

    :param seconds: from the film's beginning, by its time stamp.
    :param image: upright, RGB.
    """

    seconds: float
    image: Image.Image


@dataclass(frozen=True)
class _Scored:
    seconds: float
    sharpness: float
    grey: npt.NDArray[np.uint8]
    frame: av.VideoFrame


def look(source: Source, start: float, end: float) -> Film:
    """What there is to know of a film before it is decoded.

    :param start: in seconds; what comes before is not used.
    :param end: in seconds; 0 is the film's own end.
    :raises Unreadable: when it is none that can be decoded.
    :raises Unused: when nothing of it lies between start and end.
    """
    with source.path.open("rb") as file, _opened(file) as (container, stream):
        length = _seconds(container, stream)
        begin, finish = min(start, length), min(end or length, length)
        if finish <= begin:
            raise Unused(f"it ends after {length:.1f} s, before ingest_start: nothing of it is used")
        size = (stream.codec_context.width, stream.codec_context.height)
        if min(size) < 1:
            raise Unreadable("it does not say how large its pictures are: it is damaged, or was not uploaded whole")
        return Film(source, size, finish - begin, begin, finish, _exif(container.metadata), _track(container, stream))


def windows(lengths: Sequence[float], most: int) -> list[int]:
    """Into how many windows films are divided, together at most `most`.

    :param lengths: in seconds.
    """
    total = sum(lengths)
    wanted = min(most, max(FEWEST_FRAMES, FRAMES_PER_SECOND * total), math.ceil(total / SHORTEST_WINDOW))
    ends = [round(wanted * sum(lengths[: place + 1]) / total) for place in range(len(lengths))]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def frames_of(
    film: Film, count: int, max_size: int, memory: Memory, threads: int, check: Callable[[], None]
) -> Iterator[Frame]:
    """The frames that are taken, in their order.

    :param count: of windows.
    :param max_size: of the pictures' longest side, in px.
    :param check: called for every frame; raises when the work is to stop.
    :raises Unreadable: when nothing of it can be decoded.
    :raises Unused: when the camera does not move in it.
    :raises TooLarge: when it takes more memory than all may.
    """
    with memory.of(film.size, film.memory), film.source.path.open("rb") as file, _opened(file) as (container, stream):
        shape = stream.sample_aspect_ratio
        found = 0

        def scored() -> Iterator[_Scored]:
            nonlocal found
            for frame, seconds in _decoded(container, stream, film, threads):
                check()
                found += 1
                yield _score(frame, seconds)

        taken = 0
        with closing(moving(sharpest(scored(), film.start, film.seconds / max(count, 1)))) as chosen:
            for each in chosen:
                taken += 1
                yield Frame(each.seconds, picture_of(each.frame, max_size, float(shape) if shape else 1.0))
        if not found:
            raise Unreadable("none of its pictures can be decoded: it is damaged, or was not uploaded whole")
        if not taken:
            raise Unused("the camera does not move in it")


def sharpest(frames: Iterable[Any], start: float, window: float) -> Iterator[Any]:
    """The sharpest frame of each window of equal time.

    :param window: in seconds.
    """
    for _, group in groupby(frames, key=lambda frame: math.floor((frame.seconds - start) / window)):
        yield max(group, key=lambda frame: frame.sharpness)


def moving(frames: Iterable[Any]) -> Generator[Any, None, None]:
    """Of frames that show the same, one after another, the sharpest; none of those before the camera first moves."""
    first = best = None
    began, stood = False, 1
    for frame in frames:
        if first is not None and same(_cells(frame), _cells(first)):
            best, stood = max(best, frame, key=lambda each: each.sharpness), stood + 1
            continue
        if best is not None and (began or stood == 1):
            yield best
        began = first is not None
        first, best, stood = frame, frame, 1
    if best is not None and (began or stood == 1):
        yield best


def _cells(frame: Any) -> tuple[Any, float]:
    return cells_of(Image.fromarray(frame.grey)), 1.0


def _score(frame: av.VideoFrame, seconds: float) -> _Scored:
    scale = min(1.0, LONG_SIDE / max(frame.width, frame.height))
    size = (max(3, round(frame.width * scale)), max(3, round(frame.height * scale)))
    grey: Any = frame.reformat(width=size[0], height=size[1], format="gray", interpolation="AREA").to_ndarray()
    return _Scored(seconds, sharpness(grey), grey, frame)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    """A film's container and its stream of pictures.

    :raises Unreadable: when it is no film, or there are none that can be decoded; what the disk says goes through.
    """
    try:
        # A playlist or a container of another kind could lead elsewhere.
        with av.open(
            file, metadata_errors="replace", options={"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
        ) as container:
            yield container, _stream(container)
    except Exception as error:
        # FFmpeg's own errors have numbers that no disk has; what a disk says PyAV raises again as it was.
        if not (isinstance(error, av.FFmpegError) or is_damage(error)) or isinstance(error, (Unreadable, Unused)):
            raise
        raise Unreadable("damaged, not uploaded whole, or no film of a kind that is known") from None


def _stream(container: Any) -> Any:
    """The film itself; a picture of a cover is none.

    :raises Unreadable: when there is none.
    """
    pictures = [each for each in container.streams if each.type == "video"]
    pictures = [each for each in pictures if not each.disposition & Disposition.attached_pic]
    if not pictures:
        raise Unreadable("it has no pictures, only sound or data")
    return max(pictures, key=lambda each: each.codec_context.width * each.codec_context.height)


def _seconds(container: Any, stream: Any) -> float:
    """How long a film is; where its header does not tell, by the time stamps of its packets."""
    length = 0.0
    if stream.duration:
        length = float(stream.duration * stream.time_base)
    elif container.duration:
        length = container.duration / av.time_base
    if not 0 < length < MAX_SECONDS:
        stamps = [float(each.pts * each.time_base) for each in container.demux(stream) if each.pts is not None]
        length = max(stamps, default=0.0) - min(stamps, default=0.0)
    # Of a single picture, which stands for no time.
    return length or SHORTEST_WINDOW


def _track(container: Any, pictures: Any) -> Track:
    """The places that a film's tracks of data tell, with their seconds; a packet's are spread over its time."""
    data = [each for each in container.streams if each.type == "data"]
    if not data:
        return ()
    start = float((pictures.start_time or 0) * pictures.time_base)
    for stream in container.streams:
        if stream not in data:
            stream.discard = Discard.all
    found: list[tuple[float, Gps]] = []
    with suppress(av.FFmpegError):
        container.seek(0)
        for packet in container.demux(data):
            if packet.pts is None or packet.size > MOST_DATA_BYTES or len(found) > MOST_PLACES:
                continue
            places = places_in(bytes(packet))
            begin, length = (float(each * packet.time_base) for each in (packet.pts, packet.duration or 0))
            found += [(begin - start + length * place / len(places), gps) for place, gps in enumerate(places)]
    return sorted(found, key=lambda moment: moment[0])


def _decoded(container: Any, stream: Any, film: Film, threads: int) -> Iterator[tuple[av.VideoFrame, float]]:
    """Whole frames between the film's start and end, with their times; what is damaged is passed over."""
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(threads, MAX_THREADS)
    # A frame that is larger than the header says is not decoded. Sizes are counted in whole blocks.
    stream.codec_context.options = {"max_pixels": str((film.size[0] + BLOCK) * (film.size[1] + BLOCK))}
    begin = float((stream.start_time or 0) * stream.time_base)
    if film.start:
        with suppress(av.FFmpegError):
            container.seek(int((begin + film.start) * av.time_base))
    last = -math.inf
    for frame in _frames(container, stream):
        seconds = -math.inf if frame.time is None else frame.time - begin
        if seconds > film.end:
            return
        # Time stamps that go back, as those of damaged films do, would open a window anew.
        if seconds >= film.start and seconds > last and not frame.is_corrupt:
            last = seconds
            yield frame, seconds


def _frames(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            # What is missing at the end of a film spoils only itself.
            packet = None
        with suppress(av.FFmpegError):
            yield from stream.codec_context.decode(packet)
        if packet is None or packet.size == 0:
            return


def later(taken: str, seconds: float) -> str | None:
    """A time so many seconds later; ISO 8601, as `Exif.taken`. None after the last time that can be told."""
    with suppress(OverflowError):
        return (dt.datetime.fromisoformat(taken) + dt.timedelta(seconds=seconds)).isoformat()
    return None


def _exif(metadata: dict[str, str]) -> Exif:
    told = {name.lower(): value for name, value in metadata.items()}
    return Exif(
        make=printable(told.get("com.apple.quicktime.make", told.get("make"))),
        model=printable(told.get("com.apple.quicktime.model", told.get("model"))),
        gps=next(filter(None, (_gps(told.get(name.lower(), "")) for name in _PLACES)), None),
        taken=_taken(told.get("com.apple.quicktime.creationdate") or told.get("creation_time", "")),
    )


def _gps(text: str) -> Gps | None:
    found = _PLACE.match(text)
    if not found:
        return None
    return place_on_earth(*(float(each) if each else None for each in found.groups()))


def _taken(text: str) -> str | None:
    try:
        return dt.datetime.fromisoformat(re.sub(r"Z$|([+-]\d\d):?(\d\d)$", _offset, text)).isoformat()
    except ValueError:
        return None


def _offset(found: re.Match[str]) -> str:
    return f"{found[1]}:{found[2]}" if found[1] else "+00:00"
