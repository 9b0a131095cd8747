"""Opens a file for hunting: what it is shows in its first octets, never in its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from journal.reading import tables, zeek
from journal.reading.capture import Capture
from journal.reading.pcap import MAGICS
from journal.reading.pcapng import SECTION
from journal.reading.rows import Rows
from journal.reading.source import BadFile
from journal.reading.streams import Octets

if TYPE_CHECKING:
    from pathlib import Path

    from journal.reading.source import Reader

PEEK: Final = 4_096  # octets looked at
_PARQUET: Final = b"PAR1"
_ZEEK: Final = (b"#separator", b"#fields", b"#set_separator", b"#path")


def open_file(path: Path) -> Reader:
    """Return the reader of the file; raises BadFile with the reason when there is none, and OSError."""
    if path.is_dir():
        raise BadFile(path, "is a folder; name the files in it")
    octets = Octets(path)
    try:
        start, packing = octets.peek(PEEK), octets.packing
    finally:
        octets.close()
    if start[:4] in MAGICS:
        return Capture(path, "pcap")
    if start.startswith(SECTION):
        return Capture(path, "pcapng")
    if start.startswith(_PARQUET):
        return _own_log(path, packing)
    return _text(path, start)


def _own_log(path: Path, packing: str) -> Reader:
    if packing:
        raise BadFile(path, f"is Parquet inside {packing}; unpack it first")
    from journal.reading.ours import OwnLog

    return OwnLog(path)


def _text(path: Path, start: bytes) -> Reader:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        raise BadFile(path, "is empty")
    if text.startswith(_ZEEK):
        return Rows(path, "Zeek TSV", zeek.separated)
    if text.startswith(b"{"):
        return Rows(path, "Zeek JSON", zeek.objects)
    if b"\x00" in start:
        raise BadFile(path, "is none of pcap, pcapng, Zeek's dns.log, CSV with a header, and plughole's Parquet")
    return Rows(path, "CSV", tables.rows)
