"""What the checks look at: the configuration, a tree of files that may be made up, and calls out of the process.

Rules:
1. A check reads files through Host.read and reaches the machine and the network through System only, so that a test
   replaces both.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from console.checkups import calls
from core.endpoints import Endpoint, parse_endpoint
from core.servers import Server, parse_server

if TYPE_CHECKING:
    from console.checkups.calls import Ask, Disk, User
    from core.config import Config

State: TypeAlias = Literal["ok", "warn", "fail"]
Kind: TypeAlias = Literal["udp", "tcp"]
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to ask whoever listens on all addresses


class Finding(NamedTuple):
    """What one check saw: `state`, and as `cure` a command or a key to change (empty: nothing to do)."""

    check: str
    state: State
    seen: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class System:
    """The calls by which a check leaves this process; the defaults are the real ones of console.checkups.calls."""

    ask: Ask = calls.ask
    connect: Callable[[str, int], None] = calls.connect
    bind: Callable[[Endpoint, Kind], int] = calls.bind
    status: Callable[[Path], dict[str, Any] | None] = calls.status
    redis: Callable[[Config], Any] = calls.redis
    libraries: Callable[[], str] = calls.libraries
    disk: Callable[[Path], Disk] = calls.disk
    open_files: Callable[[], int | None] = calls.open_files
    cores: Callable[[], int] = calls.cores
    me: Callable[[], User] = calls.me
    user: Callable[[str], User | None] = calls.user
    interpreter_may_bind: Callable[[], bool] = calls.interpreter_may_bind
    unsynchronised: Callable[[], bool] = calls.unsynchronised
    now: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep


@dataclass(frozen=True)
class Host:
    """This host and the configuration; `root` is the folder in which /proc, /sys and /etc are looked for."""

    config: Config
    root: Path = Path("/")
    system: System = field(default_factory=System)

    def read(self, path: str) -> str:
        """Return the text of a file below the root; raises OSError."""
        return (self.root / path).read_text(errors="replace")

    def read_if_there(self, path: str) -> str:
        """Return the text of a file below the root, empty when there is none; raises other OSErrors."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return ""

    @property
    def listens(self) -> list[tuple[str, Endpoint]]:
        """Where we listen, as written and as read."""
        return [(text, parse_endpoint(text)) for text in self.config.server.listen]

    @property
    def upstreams(self) -> list[tuple[str, Server]]:
        """The key and the server of every server we are told to ask: forward servers and those of zones."""
        config = self.config.upstream
        found = [("[upstream] servers", text) for text in config.servers if config.mode == "forward"]
        found += [(f"[[upstream.zone]] {zone.name}", text) for zone in config.zone for text in zone.servers]
        return [(key, parse_server(text)) for key, text in found]


Check: TypeAlias = Callable[[Host], Iterator[Finding]]
