"""What people type: durations, moments, addresses, names and record types, refused in one clear line when wrong.

The options every command has are here too. Whatever costs time to import is imported where it is used.
"""

from __future__ import annotations

import functools
import os
import re
import time
from datetime import UTC, datetime
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from core import names
from core.errors import BadName

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.config import Config

VARIABLE: Final = "PLUGHOLE_CONFIG"
PLACES: Final = (Path("config.toml"), Path("/etc/plughole/config.toml"))
MAX_SPAN: Final = 315_360_000.0  # seconds: ten years, the most the journal keeps
MAX_REASON: Final = 512  # characters
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([smhdw])", re.ASCII)


class Subject(NamedTuple):
    """A name or an address to be judged."""

    value: bytes  # folded wire name, or 4 or 16 octets
    is_address: bool

    @property
    def text(self) -> str:
        """The name or address for people."""
        return str(ip_address(self.value)) if self.is_address else names.to_text(self.value)


class Duration(click.ParamType[float]):
    """Seconds from `90s`, `10m`, `24h`, `7d` or `2w`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds, more than none and at most ten years."""
        if isinstance(value, float):
            return value
        seconds = _seconds(value)
        if seconds is None or not 0 < seconds <= MAX_SPAN:
            self.fail(f"{value!r} is no duration of at most ten years; write 90s, 10m, 24h or 7d", param, ctx)
        return seconds


class Moment(click.ParamType[float]):
    """Unix seconds from a duration before now or from an ISO 8601 time, which is in UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the moment in Unix seconds."""
        if isinstance(value, float):
            return value
        if (seconds := _seconds(value)) is not None and seconds <= MAX_SPAN:
            return time.time() - seconds
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; write 90s, 10m, 24h, 7d or 2026-11-24T08:00:00Z", param, ctx)


class Address(click.ParamType[str]):
    """One IP address, in its canonical form."""

    name = "ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as text."""
        found = _address(value)
        if found is None:
            self.fail(f"{value!r} is no IP address; write 192.0.2.7 or 2001:db8::7", param, ctx)
        return found


class Scope(click.ParamType[str]):
    """One IP address or a prefix, in canonical form; a prefix of one address is that address."""

    name = "ip|cidr"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address or prefix as text."""
        found = _address(value)
        if found is not None:
            return found
        try:
            network = ip_network(value, strict=False)
        except ValueError:
            self.fail(f"{value!r} is no IP address or prefix; write 192.0.2.7 or 192.0.2.0/24", param, ctx)
        return str(network if network.num_addresses > 1 else network.network_address)


class NameOrAddress(click.ParamType[Subject]):
    """A domain name (escapes, Unicode and `[.]` are understood) or an IP address."""

    name = "name|ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Subject:
        """Return the name folded, or the address packed."""
        if isinstance(value, Subject):
            return value
        text = value.replace("[.]", ".")  # as reports write names, so that nobody clicks on them
        if (address := _address(text)) is not None:
            return Subject(ip_address(address).packed, is_address=True)
        if "://" in text or any(char.isspace() for char in text):
            self.fail(f"{value!r} is no name; write only the name, such as evil.example", param, ctx)
        try:
            return Subject(names.from_text(text), is_address=False)
        except BadName as error:
            self.fail(f"{value!r} is no name: {error}", param, ctx)


class DomainName(click.ParamType[str]):
    """A domain name in its canonical text."""

    name = "domain"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name as the journal writes it."""
        subject = NameOrAddress().convert(value, param, ctx)
        if subject.is_address:
            self.fail(f"{value!r} is an address; write a name, such as evil.example", param, ctx)
        return subject.text


class RecordType(click.ParamType[int]):
    """A record type by its mnemonic or as TYPE123."""

    name = "type"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return its number."""
        from core.rr import type_number

        try:
            return value if isinstance(value, int) else type_number(value)
        except ValueError:
            self.fail(f"{value!r} is no record type; write A, AAAA, HTTPS or TYPE65", param, ctx)


class Sentence(click.ParamType[str]):
    """A reason of one line that is not empty."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, its blanks made single."""
        text = " ".join(value.split())
        if not text or len(text) > MAX_REASON:
            self.fail(f"needs 1 to {MAX_REASON} characters", param, ctx)
        return text.encode("utf-8", "replace").decode()


def load_config(path: Path | None) -> Config:
    """Return the configuration of `path`, else of the first of PLACES that exists, else the defaults.

    Raises BadConfig with every mistake.
    """
    from core.config_load import load
    from detectors.registry import check

    config = load(path or next(filter(Path.is_file, PLACES), None), os.environ)
    check(config.detectors)
    return config


def configured(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Give a command the option `-c FILE` and, as its first argument, the configuration it leads to."""

    @click.option(
        "-c", "--config", "path", metavar="FILE", type=click.Path(path_type=Path), envvar=VARIABLE,
        help=f"The configuration. Default: ${VARIABLE}, ./config.toml, {PLACES[1]}, else the built-in one.",
    )  # fmt: skip
    @functools.wraps(command)
    def run(**given: Any) -> int | None:
        return command(load_config(given.pop("path")), **given)

    return run


as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON; docs/cli.md has the schema.")


def examples(*lines: str) -> str:
    """Return the text that shows command lines as they are at the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _seconds(text: str) -> float | None:
    found = _SPAN.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None


def _address(text: str) -> str | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or IPv6Address(found.packed)  # a zone index is this host's business, not the client's
    return str(found)
