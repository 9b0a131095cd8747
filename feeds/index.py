"""The compiled intelligence: one file, mapped by every process, from a folded wire name to a source set.

Layout, little-endian: magic, length of the metadata (u64), length of the map (u64), digest of the metadata (8 octets);
the metadata as JSON, padded with blanks to 8 octets; the bytes of a `fastconstmap.VerifiedConstMap`, which checks
itself when opened.

Rules:
1. The file is written beside its place and renamed, so what is opened is whole and never changes under a reader.
2. The map borrows the mapped pages, so it goes before they do: `close`, then nothing.
"""

from __future__ import annotations

import mmap
import os
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from fastconstmap import VerifiedConstMap

from core.errors import UNREADABLE, BadFeed, Unavailable
from core.verdict import Action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from core.names import Name

MAGIC: Final = b"PLUGIDX2"
SUFFIX: Final = ".index"
_HEADER: Final = struct.Struct("<8sQQ8s")
_ALIGN: Final = 8  # octets; the map's words are read where they lie


class Match(msgspec.Struct, frozen=True, array_like=True):
    """One source's word on a listed name. `exact`: about the name itself; `below`: about every name under it."""

    source: str
    category: str
    confidence: int  # 0-100
    action: Action
    exact: bool = True
    below: bool = True


SourceSet = tuple[Match, ...]


class Header(msgspec.Struct, frozen=True):
    """What an index says of itself. `sets[n]` is what a name with the value `n` is listed for."""

    generation: int
    count: int
    created: float  # Unix seconds
    sets: tuple[SourceSet, ...]


class Index:
    """An opened index. Looking up is safe from any thread; closing is not."""

    def __init__(self, header: Header, pages: mmap.mmap, view: memoryview) -> None:
        self.generation = header.generation
        self.count = header.count
        self.created = header.created
        self.sets = header.sets
        self._pages = pages
        self._view = view
        self._map: VerifiedConstMap | None = VerifiedConstMap.from_buffer(view) if header.count else None
        self.find = self._map.get_many if self._map is not None else _find_nothing
        """For each name the number of its source set, or None; about 0.2 us for three names."""

    @classmethod
    def open(cls, path: Path) -> Index:
        """Map the file and check every octet of it: 20 ms a million names, so call it off the packet loop.

        Raises BadFeed when the file is missing, cut short, damaged or of another version.
        """
        try:
            with path.open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise BadFeed(f"{path}: cannot be mapped ({error}); run `plughole feeds update`") from None
        view = memoryview(pages)
        try:
            return cls._checked(pages, view)
        except (ValueError, struct.error, *UNREADABLE) as error:
            view.release()
            pages.close()
            raise BadFeed(f"{path}: {error}; run `plughole feeds update --force`") from None

    @classmethod
    def _checked(cls, pages: mmap.mmap, view: memoryview) -> Index:
        header, map_at, map_size = _read_header(view)
        part = view[map_at : map_at + map_size]
        try:
            return cls(header, pages, part)
        except ValueError:
            part.release()
            raise

    def close(self) -> None:
        """Give the map back, then the pages. Nothing may be looked up afterwards; a second call does nothing."""
        self.find = _find_nothing
        self._map = None
        try:
            self._view.release()
            self._pages.close()
        except BufferError:
            return  # somebody kept `find`: the pages go when that goes


def build(generation: int, names: Mapping[Name, int], sets: Sequence[SourceSet], *, created: float) -> bytes:
    """Return the bytes of an index file; 0.6 s and 18 MB a million names."""
    header = msgspec.json.encode(Header(generation, len(names), created, tuple(sets)))
    header += b" " * (-(_HEADER.size + len(header)) % _ALIGN)
    body = VerifiedConstMap(cast(Any, names)).to_bytes() if names else b""
    return _HEADER.pack(MAGIC, len(header), len(body), _digest(header)) + header + body


def write(folder: Path, generation: int, data: bytes) -> Path:
    """Put an index into its folder, whole or not at all, and return where it is."""
    path = index_path(folder, generation)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Unavailable(f"{path}: cannot be written ({error.strerror})") from None
    return path


def index_path(folder: Path, generation: int) -> Path:
    """Return the file a generation has in the index folder, there or not."""
    return folder / f"{generation}{SUFFIX}"


def stored(folder: Path) -> list[int]:
    """Return the generations whose files are there, newest first."""
    found = [path.stem for path in folder.glob(f"*{SUFFIX}")]
    return sorted((int(stem) for stem in found if stem.isdecimal()), reverse=True)


def _read_header(view: memoryview) -> tuple[Header, int, int]:
    """Return the metadata and where the map lies; raises ValueError or what msgspec and struct raise."""
    magic, header_size, map_size, digest = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise ValueError("not an index of this version")
    map_at = _HEADER.size + header_size
    if map_at % _ALIGN or map_at + map_size != len(view):
        raise ValueError("cut short or damaged")
    text = bytes(view[_HEADER.size : map_at])
    if _digest(text) != digest:
        raise ValueError("damaged")
    header = msgspec.json.decode(text, type=Header)
    if bool(header.count) != bool(map_size) or (header.count and not header.sets):
        raise ValueError("damaged")
    return header, map_at, map_size


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=8).digest()


def _find_nothing(keys: Sequence[Name]) -> list[int | None]:
    return [None] * len(keys)
