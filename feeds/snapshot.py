"""The last good copy of a feed on disk: its bytes and what is known about them.

Rules:
1. The bytes lie in a file named after their digest; `state.json` names that file and is replaced last, by renaming. A
   crash therefore leaves the old copy or the new one, never half of each.
2. Only a feed that passed every guard is saved.
"""

from __future__ import annotations

import os
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

from core.errors import UNREADABLE, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

STATE: Final = "state.json"


class State(msgspec.Struct, frozen=True):
    """What is known about the last good copy."""

    sha256: str
    origin: str  # digest of the URL, which may carry a token, and of the format it is read by
    size: int  # octets
    fetched: float  # Unix seconds, when the bytes last changed
    etag: str = ""
    last_modified: str = ""
    syntax: str = ""
    lines: int = 0
    names: int = 0
    bad: int = 0
    unsupported: int = 0
    checked: float = 0.0  # Unix seconds, when its source last answered, if only that nothing changed

    @property
    def file(self) -> str:
        """The name of the file with the bytes."""
        return f"{self.sha256[:32]}.snapshot"


def load_state(folder: Path) -> State | None:
    """Return what is known about the last good copy, or None when there is none that can be read."""
    try:
        state = msgspec.json.decode((folder / STATE).read_bytes(), type=State)
    except (OSError, *UNREADABLE):
        return None
    return state if (folder / state.file).is_file() else None


def load(folder: Path, state: State) -> bytes | None:
    """Return the bytes of the last good copy, or None when they are gone or damaged."""
    try:
        data = (folder / state.file).read_bytes()
    except OSError:
        return None
    return data if digest(data) == state.sha256 else None


def save(folder: Path, state: State, data: bytes | None) -> None:
    """Make this the last good copy; `data` is None when only what is known about the same bytes changed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data is not None:
            _replace(folder / state.file, data)
        _replace(folder / STATE, msgspec.json.encode(state))
        for old in (*folder.glob("*.snapshot"), *folder.glob("*.tmp")):
            if old.name != state.file:
                old.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"{folder}: cannot be written ({error.strerror})") from None


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes, in hexadecimal."""
    return sha256(data).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
