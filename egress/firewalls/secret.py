"""A key or password from a file, which no error, log or repr shows."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

import structlog

from egress.enforcer import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import Firewall

MAX_OCTETS: Final = 65_536
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_log = structlog.get_logger("egress")


class Secret:
    """Text that shows itself only when asked to."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __bool__(self) -> bool:
        return bool(self._text)

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def lines(self) -> list[Secret]:
        """Return each line that is not empty as a secret of its own."""
        return [Secret(line.strip()) for line in self._text.splitlines() if line.strip()]

    def hidden_in(self, text: str) -> str:
        """Return the text with stars where the secret, or a line of it, stood."""
        for line in (self._text, *(each.reveal() for each in self.lines())):
            if line:
                text = text.replace(line, "***")
        return text


NONE: Final = Secret("")


def read(firewall: Firewall, base: Path) -> Secret:
    """Return what `secret_file` holds, without space around it; nothing when none is set.

    Raises Refused when it can not be read or is empty; a file that others may read is told in the log.
    """
    if not firewall.secret_file:
        return NONE
    path = base / firewall.secret_file
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            data = file.read(MAX_OCTETS + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise Refused(f"{firewall.kind} {firewall.name}: {path}: {error.strerror}") from None
    if mode & _OTHERS:
        _log.warning("others may read a firewall's secret; chmod 600 it", firewall=firewall.name, path=str(path))
    text = data.decode("utf-8", "replace").strip()
    if not text or len(data) > MAX_OCTETS or not all(each.isprintable() or each in "\r\n" for each in text):
        raise Refused(f"{firewall.kind} {firewall.name}: {path} holds no secret of one or a few lines")
    return Secret(text)


def needed(firewall: Firewall, base: Path) -> Secret:
    """Return what `secret_file` holds; raises Refused when none is set."""
    found = read(firewall, base)
    if not found:
        raise Refused(f"{firewall.kind} {firewall.name}: needs secret_file")
    return found
