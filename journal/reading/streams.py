"""Octets of a file, unpacked while they are read: plain, gzip, zstd, bzip2, xz; and its lines, bounded.

Rules:
1. Damage in the packing is `BadFile`, wherever it shows.
2. Nothing is held but one block; a line longer than MAX_LINE is cut off there and its rest skipped.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import TYPE_CHECKING, Any, Final

from journal.reading.source import BadFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from journal.reading.source import Tally

BLOCK: Final = 262_144  # octets taken from a stream at once
MAX_LINE: Final = 1_048_576  # octets
_WINDOW: Final = 2**27  # octets of zstd's window, what `zstd` itself accepts without being told
_SIP: Final = 1_024  # octets of zstd unpacked at once: four of them can stand for 128 KiB
_MAGIC: Final[dict[bytes, str]] = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz",
}  # fmt: skip
_DAMAGE: Final = (EOFError, zlib.error, lzma.LZMAError, OSError)


class Octets:
    """A file's octets after unpacking. `packing` is empty for a plain file. Raises BadFile, and OSError on opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw = path.open("rb", buffering=0)
        start = self._raw.read(8)
        self._raw.seek(0)
        self.packing = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), "")
        self._damage: tuple[type[Exception], ...] = _DAMAGE
        self._stream = io.BufferedReader(self._unpacked(), BLOCK)

    def _unpacked(self) -> io.RawIOBase:
        if self.packing == "gzip":
            return _Unpacked(gzip.GzipFile(fileobj=self._raw))
        if self.packing == "bzip2":
            return _Unpacked(bz2.BZ2File(self._raw))
        if self.packing == "xz":
            return _Unpacked(lzma.LZMAFile(self._raw))
        return self._zstd() if self.packing == "zstd" else self._raw

    def _zstd(self) -> io.RawIOBase:
        try:
            import zstandard
        except ImportError:
            raise BadFile(self.path, "needs the package zstandard to be unpacked; or unpack it first") from None
        self._damage = (*_DAMAGE, zstandard.ZstdError)
        unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
        return _Frames(self._raw, unpacker.decompressobj)

    def position(self) -> int:
        """Return how many octets have been taken from the disk."""
        return 0 if self._raw.closed else self._raw.tell()

    def read(self, size: int) -> bytes:
        """Return so many octets, fewer only at the end."""
        try:
            return self._stream.read(size)
        except self._damage as error:
            raise self._bad(error) from error

    def peek(self, size: int) -> bytes:
        """Return up to so many of the next octets, which stay there; at most BLOCK."""
        try:
            return self._stream.peek(size)[:size]
        except self._damage as error:
            raise self._bad(error) from error

    def lines(self, tally: Tally) -> Iterator[str]:
        """Yield the lines without their ends; octets that are no UTF-8 become surrogates."""
        while True:
            try:
                line = self._stream.readline(MAX_LINE)
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    tally["lines too long"] += 1
                    while (rest := self._stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        continue
            except self._damage as error:
                raise self._bad(error) from error
            if not line:
                return
            yield line.rstrip(b"\r\n").decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Give the file back."""
        self._stream.close()
        self._raw.close()

    def _bad(self, error: Exception) -> BadFile:
        text = " ".join(str(error).split()) or type(error).__name__
        return BadFile(self.path, f"{self.packing or 'the file'} cannot be read further: {text}")


class _Unpacked(io.RawIOBase):
    """What a decompressor has ready, so that what came before damage is not lost with it."""

    def __init__(self, source: gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        found = self._source.read1(len(target))
        target[: len(found)] = found
        return len(found)


class _Frames(io.RawIOBase):
    """Frames of zstd one behind the other; a file that ends within one raises EOFError."""

    def __init__(self, source: io.RawIOBase, begin: Callable[[], Any]) -> None:
        self._source = source
        self._begin = begin
        self._frame: Any = None
        self._packed = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._source.read(BLOCK) or b""
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return 0
            if self._frame is None:
                self._frame = self._begin()
            some, self._packed = self._packed[:_SIP], self._packed[_SIP:]
            self._ready = self._frame.decompress(some)
            if self._frame.eof:
                self._packed = self._frame.unused_data + self._packed
                self._frame = None
        size = min(len(target), len(self._ready))
        target[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
