"""What hub and workers say to each other over one SEQPACKET socket each, and the state both read from disk.

Rules:
1. A message is a notice; the state itself (index, overrides) lies in files: a worker starts without hub or Redis.
2. A worker answers a notice with its next `Report`, which names the state it serves by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from core.errors import UNREADABLE
from core.event import Batch
from core.finding import Finding
from detectors.leak_words import Total
from feeds.overlay import Override

if TYPE_CHECKING:
    from pathlib import Path

STATE: Final = "state"  # file beside the index files: which index, which overrides
SOCKET: Final = "hub.sock"  # in the data folder: answers the line `status`
MAX_MESSAGE: Final = 262_144  # octets of one datagram between hub and worker


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What a node serves by. `index` is a file name beside this file, empty for none yet."""

    index: str = ""
    generation: int = 0
    settled: bool = False  # the intelligence is as it should be: loaded, or none is configured
    sequence: int = 0  # of the overlay
    overrides: tuple[Override, ...] = ()


class Changed(msgspec.Struct, frozen=True, array_like=True, tag="changed"):
    """Hub to worker: the state on disk is another one now."""


class Report(msgspec.Struct, frozen=True, array_like=True, tag="report"):
    """Worker to hub, once a second: counters, and the state it serves by."""

    worker: int
    pid: int
    generation: int
    sequence: int
    counters: dict[str, int]


class Found(msgspec.Struct, frozen=True, array_like=True, tag="found"):
    """Worker to hub: what its leak meter found."""

    worker: int
    findings: list[Finding]


class Charged(msgspec.Struct, frozen=True, array_like=True, tag="charged"):
    """Worker to hub: what its meter charged since it last told. Hub to worker: what other nodes charged its clients."""

    worker: int
    totals: list[Total]


decode_said = msgspec.msgpack.Decoder(Batch | Report | Found | Charged).decode
decode_news = msgspec.msgpack.Decoder(Charged | Changed).decode
encode = msgspec.msgpack.Encoder().encode


def intel_dir(data_dir: Path) -> Path:
    """Return the folder of index files and state."""
    return data_dir / "intel"


def read_state(data_dir: Path) -> State:
    """Return the node's state; the empty one when there is none or it cannot be read."""
    try:
        return msgspec.msgpack.decode((intel_dir(data_dir) / STATE).read_bytes(), type=State)
    except (OSError, *UNREADABLE):
        return State()


def written_at(data_dir: Path) -> int:
    """Return when the state on disk was written, in nanoseconds; 0 when there is none."""
    try:
        return (intel_dir(data_dir) / STATE).stat().st_mtime_ns
    except OSError:
        return 0


def write_state(data_dir: Path, state: State) -> None:
    """Put the state in place in one step; raises OSError."""
    folder = intel_dir(data_dir)
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f"{STATE}.tmp"
    fresh.write_bytes(msgspec.msgpack.encode(state))
    fresh.replace(folder / STATE)
