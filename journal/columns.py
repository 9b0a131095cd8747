"""Turns events into columns, a chunk at a time: the part of the journal that runs for every row.

Per-row Python is what costs here, so numbers go through numpy, all names of a chunk become text together, and a text
column that is empty in the whole chunk is not built. See benchmarks/journal.py for what each way costs.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import numpy as np

from core import names
from core.event import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from core.names import Name
    from core.verdict import Reason

Block: TypeAlias = "dict[str, NDArray[Any] | None]"  # None: a text column with nothing in it

REMEMBERED: Final = 32_768  # texts; about 5 MB when full
HOPS: Final = 128  # labels a name of 255 octets can have

NUMBERS: Final[dict[str, type[np.generic]]] = {
    "qtype": np.uint16,
    "rcode": np.uint16,
    "action": np.uint8,
    "cause": np.uint8,
    "trigger": np.uint8,
    "transport": np.uint8,
    "cached": np.bool_,
    "secure": np.bool_,
    "count": np.uint32,
    "duration": np.uint32,
    "size": np.uint32,
    "ttl": np.uint32,
}
TEXTS: Final = ("client", "qname", "view", "member", "upstream", "answers", "reasons")

_PLAIN: Final = bytes(octet for octet in range(0x21, 0x7F) if octet not in b'."();@$\\')  # names.to_text keeps these
_ODD: Final = np.array([octet not in _PLAIN for octet in range(256)])
_FILLER: Final = ord("a")
_DOT: Final = ord(".")

_to_lines: Final = msgspec.json.Encoder().encode_lines


class Texts:
    """Addresses, and the address lists of answers, as text; recent ones are remembered."""

    def __init__(self) -> None:
        addresses = _Remembered(address_text)
        self.address: Callable[[bytes], str] = addresses.__getitem__
        self.answers: Callable[[tuple[bytes, ...]], str] = _Remembered(
            lambda some: " ".join(map(self.address, some))
        ).__getitem__


class _Remembered(dict[Any, str]):
    """A dict that fills itself, and starts afresh when it holds REMEMBERED texts."""

    def __init__(self, make: Callable[[Any], str]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> str:
        if len(self) >= REMEMBERED:
            self.clear()
        text = self[key] = self._make(key)
        return text


def address_text(address: bytes) -> str:
    """Return an IPv4 or IPv6 address as text, an empty one as '', any other as hexadecimal digits."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    if len(address) == 16:
        return socket.inet_ntop(socket.AF_INET6, address)
    return address.hex()


def block(events: Sequence[Event], texts: Texts) -> Block:
    """Return the events as columns, one array a column, in the order of the events."""
    raw = dict(zip(Event.__struct_fields__, zip(*map(msgspec.structs.astuple, events), strict=True), strict=True))
    columns: Block = {"at": _moments(raw["at"])}
    for name, kind in NUMBERS.items():
        columns[name] = _numbers(raw[name], kind)
    columns["client"] = _objects(list(map(texts.address, raw["client"])))
    columns["qname"] = _objects(name_texts(raw["qname"]))
    for name in ("view", "member", "upstream"):
        columns[name] = _objects(_printable(raw[name])) if any(raw[name]) else None
    columns["answers"] = _objects(list(map(texts.answers, raw["answers"]))) if any(raw["answers"]) else None
    columns["reasons"] = _objects(_json_lines(raw["reasons"])) if any(raw["reasons"]) else None
    return columns


def join(blocks: Sequence[Block]) -> Block:
    """Return the blocks one after the other as one."""
    return {name: _join([one[name] for one in blocks], [height(one) for one in blocks]) for name in blocks[0]}


def name_texts(wires: Sequence[Name]) -> list[str]:
    """Return `names.to_text` of each name, at about a fifth of its cost when the names are plain."""
    lengths = np.fromiter(map(len, wires), np.int64, len(wires))
    if not lengths.all():
        return [names.to_text(wire) for wire in wires]
    octets = np.frombuffer(b"".join(wires), np.uint8).copy()
    ends = np.cumsum(lengths)
    starts = ends - lengths
    dots = _length_octets(octets, starts, ends)
    if dots is None:
        return [names.to_text(wire) for wire in wires]
    octets[dots] = octets[ends - 1] = _FILLER
    odd = np.flatnonzero(_ODD[octets])
    octets[dots] = _DOT
    text = octets.tobytes().decode("latin-1")
    texts = [text[a:b] or "." for a, b in zip((starts + 1).tolist(), (ends - 1).tolist(), strict=True)]
    for row in set(np.searchsorted(ends, odd, "right").tolist()):
        texts[row] = names.to_text(wires[row])
    return texts


def _length_octets(octets: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Any:
    """Return where each label's length stands, all names walked in step; None when a name is not well-formed."""
    at, last = starts, len(octets) - 1
    found, stopped = [starts[:0]], []
    for _ in range(HOPS):
        step = octets[at]
        stopped.append(at[step == 0])
        at, step = at[step > 0], step[step > 0]
        if not at.size:
            break
        found.append(at)
        at = np.minimum(at + step + 1, last)
    reached = np.zeros(len(octets), np.bool_)
    for places in stopped:
        reached[places] = True
    whole = sum(map(len, stopped)) == len(ends) and reached[ends - 1].all()
    return np.concatenate(found) if whole else None


def _moments(seconds: Sequence[float]) -> NDArray[np.datetime64]:
    """Return Unix seconds as microsecond timestamps (a double still tells microseconds apart until 2112)."""
    return np.rint(np.array(seconds, np.float64) * 1e6).astype(np.int64).view("datetime64[us]")


def _numbers(values: Sequence[int], kind: type[np.generic]) -> NDArray[Any]:
    if kind is np.bool_:
        return np.array(values, np.bool_)
    if kind is np.uint8:
        return np.frombuffer(bytes(values), np.uint8)
    return np.array(values, np.int64).clip(0, np.iinfo(kind).max).astype(kind)  # type: ignore[type-var]


def _json_lines(values: Sequence[tuple[Reason, ...]]) -> list[str]:
    """Return each row's reasons as a JSON array of arrays, `[]` when none; JSON holds no raw newline to split at."""
    return _to_lines(values).decode("utf-8", "replace").split("\n")[:-1]


def _printable(texts: Sequence[str]) -> Sequence[str]:
    """Return the texts with what UTF-8 cannot carry replaced: DuckDB refuses lone surrogates."""
    if "".join(texts).isascii():
        return texts
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _objects(texts: Sequence[str]) -> NDArray[np.object_]:
    return np.array(texts, np.object_)


def height(one: Block) -> int:
    """Return how many rows a block has."""
    moments = one["at"]
    return 0 if moments is None else len(moments)


def _join(parts: list[NDArray[Any] | None], rows: list[int]) -> NDArray[Any] | None:
    if all(part is None for part in parts):
        return None
    return np.concatenate(
        [np.full(count, "", np.object_) if part is None else part for part, count in zip(parts, rows, strict=True)]
    )
