"""Decoders written in C run in a process of their own, which may hang, run out of memory or crash.

One is started when a process first meets a compressed slice, and kept. A slice that is not decoded within its seconds,
or that needs more memory than a slice of its size can, costs this process, and with it that slice alone. The two talk
over pipes, in lines of text and raw bytes: a decoder that was taken over has nothing to send but pixels. The file is
also the program of that process, and imports nothing of this package: pandas would triple the time of the start.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder
from pydicom.uid import UID, MRImageStorage

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ITK = "SimpleITK"
ROOM_BYTES, ROOM_BYTES_A_PIXEL = 128 * 2**20, 48
"""What decoding a slice may take in memory; JPEG 2000 in the smallest code blocks takes 36 bytes a pixel."""
START_SECONDS = 60.0
"""A process that has not begun to answer after this time and the slice's own never will: it was stopped or lost."""
_OVERSTAYED = -signal.SIGALRM if hasattr(signal, "SIGALRM") else 1
"""The status of a process that used up its seconds; :mod:`faulthandler` ends one with 1."""
_MEMORY = Path("/proc/self/statm")
_FAILED = "failed: "
_INTEGERS = {"|u1": 1, "|i1": 1, "<u2": 2, "<i2": 2, "<u4": 4, "<i4": 4}

Integers = NDArray[np.integer]


class UndecodableError(ValueError):
    """The stream was not decoded, or not within the limits."""


@dataclass(frozen=True)
class Wanted:
    """What a stream has to decode to: a grey image."""

    syntax: str
    rows: int
    cols: int
    allocated: int
    stored: int
    signed: bool


def decode_with(name: str, stream: bytes, wanted: Wanted) -> Integers:
    """(rows, cols) stored values of a stream, decoded in this process and without a limit.

    Args:
        name: SimpleITK, or a plugin of pydicom's.
        stream: the frame, out of its fragments.
        wanted: what it has to be.

    Raises:
        Exception: whatever the decoder raises on a damaged stream.
    """
    array = _by_itk(stream, wanted) if name == ITK else _by_pydicom(stream, wanted, name)
    if array.shape != (wanted.rows, wanted.cols):
        raise ValueError(f"decoded to {array.shape}")
    return array


def _by_pydicom(stream: bytes, wanted: Wanted, plugin: str) -> Integers:
    options: dict[str, Any] = {
        "rows": wanted.rows,
        "columns": wanted.cols,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": wanted.allocated,
        "bits_stored": wanted.stored,
        "pixel_representation": int(wanted.signed),
        "pixel_keyword": "PixelData",
    }
    array, _ = get_decoder(wanted.syntax).as_array(
        encapsulate([stream], has_bot=False), raw=True, index=0, decoding_plugin=plugin, **options
    )
    return array


def _by_itk(stream: bytes, wanted: Wanted) -> Integers:
    """By the GDCM inside SimpleITK, a required package anyway.

    It reads every JPEG there is (Baseline, Extended, Lossless, JPEG-LS, JPEG 2000), and turns C++ exceptions into
    Python's. GDCM misreads competition headers, so it is given a minimal file of its own, which is never on a disk.
    """
    import SimpleITK as sitk

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = UID(wanted.syntax)
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, "1.2.3"
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "MR", "MONOCHROME2", 1
    data.Rows, data.Columns = wanted.rows, wanted.cols
    data.BitsAllocated, data.BitsStored, data.HighBit = wanted.allocated, wanted.stored, wanted.stored - 1
    data.PixelRepresentation = int(wanted.signed)
    data.PixelData = encapsulate([stream], has_bot=False)
    data["PixelData"].is_undefined_length = True
    with _written(data) as place:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(place)
        pixels = sitk.GetArrayFromImage(reader.Execute())
    if pixels.ndim != 3 or len(pixels) != 1 or not np.issubdtype(pixels.dtype, np.integer):
        raise RuntimeError(f"decoded to {pixels.dtype} of shape {pixels.shape}")
    return np.asarray(pixels[0])


@contextlib.contextmanager
def _written(data: Dataset) -> Iterator[str]:
    """The path of a file that holds the data: in memory where the system can (Linux), else a temporary one."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("frame.dcm"), "wb") as file:
            data.save_as(file, enforce_file_format=True)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows opens no file twice
        path = Path(folder) / "frame.dcm"
        data.save_as(path, enforce_file_format=True)
        yield str(path)


class DecoderProcess:
    """The process as it is seen from outside. It starts with the first slice, and anew after it died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def decode(self, names: list[str], stream: bytes, wanted: Wanted, seconds: float) -> Integers:
        """:func:`decode_with` the first of the decoders that can, over there and under limits.

        Raises:
            UndecodableError: none can, or not within ``seconds`` and the memory that a slice of this size may take.
        """
        with self._lock:
            try:
                answer = self._ask(names, stream, wanted, seconds)
            except BaseException:  # also an alarm of the caller: what would be answered later must not be read
                self.end()
                raise
        if isinstance(answer, str):
            raise UndecodableError(answer)
        return answer

    def end(self) -> None:
        """End the process now, whatever it does."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, names: list[str], stream: bytes, wanted: Wanted, seconds: float) -> Integers | str:
        """The pixels, or why there are none."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        question = {"names": names, "bytes": len(stream), "wanted": asdict(wanted), "seconds": seconds}
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        watch = threading.Timer(seconds + START_SECONDS, end)
        watch.daemon = True
        watch.start()
        try:
            with contextlib.suppress(OSError):  # it has died: a broken pipe, on Windows an invalid argument
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.write(stream)
                process.stdin.flush()
            kind = process.stdout.readline(65536).decode(errors="replace").rstrip("\n")
        finally:
            watch.cancel()
        if late.is_set():
            raise UndecodableError("the decoder does not answer")
        if kind.startswith(_FAILED):
            return kind.removeprefix(_FAILED)
        size = wanted.rows * wanted.cols * _INTEGERS.get(kind, 0)
        content = process.stdout.read(size)
        if not size or len(content) != size:
            self.end()
            if process.returncode == _OVERSTAYED:
                raise UndecodableError(f"not decoded after {seconds:.3g} s")
            raise UndecodableError(f"the decoder ended with status {process.returncode}")
        return np.frombuffer(content, kind).reshape(wanted.rows, wanted.cols)

    def _running(self) -> subprocess.Popen[bytes]:
        mine = self._process is not None and self._owner == os.getpid()  # a fork must not talk to its parent's
        if self._process is None or not mine or self._process.poll() is not None:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(Path(__file__).resolve())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            self._owner = os.getpid()
        return self._process


def _serve() -> None:
    """Answer until nobody asks any more. This process is ended from below where a decoder overstays its seconds."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while line := sys.stdin.buffer.readline():
        question = json.loads(line)
        stream = sys.stdin.buffer.read(question["bytes"])
        _end_after(question["seconds"])
        found = _first(question["names"], stream, Wanted(**question["wanted"]))
        _end_after(0)
        if isinstance(found, str):
            answers.write(f"{_FAILED}{found}\n".encode(errors="replace"))
        else:
            kind = found.dtype.newbyteorder("<")
            answers.write(f"{kind.str}\n".encode())
            answers.write(np.ascontiguousarray(found, kind).data)
        answers.flush()


def _end_after(seconds: float) -> None:
    """End this process once the seconds are over, whatever compiled code does; never for 0."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
    elif seconds:
        faulthandler.dump_traceback_later(seconds, exit=True)
    else:
        faulthandler.cancel_dump_traceback_later()


def _first(names: list[str], stream: bytes, wanted: Wanted) -> Integers | str:
    errors = []
    for name in names:
        if name == ITK:
            import SimpleITK  # noqa: F401  # what it takes itself is no decoder's room
        _limit_memory(ROOM_BYTES + ROOM_BYTES_A_PIXEL * wanted.rows * wanted.cols)
        try:
            return decode_with(name, stream, wanted)
        except Exception as error:  # each decoder has its own
            lines = str(error).strip().splitlines() or [""]
            errors.append(f"{name}: {type(error).__name__}: {lines[-1]}"[:1000])
        finally:
            _limit_memory(None)
    return "; ".join(errors)


def _limit_memory(room: int | None) -> None:
    """Let the process have this many bytes more than it has now; None for no limit. Only Linux keeps such a limit."""
    if resource is None or not _MEMORY.is_file():
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if room is None:
        limit = hard
    else:
        limit = int(_MEMORY.read_text().split()[0]) * resource.getpagesize() + room
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    _serve()
