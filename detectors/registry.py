"""The list of all detectors: how each is made from its table of the configuration.

Rules:
1. Every detector is on with its defaults until its table says `mode = "off"`.
2. A table no detector has, a key it does not know and a wrong value are told in one line each, with their path.
3. A detector is imported when it is made: one that is off costs nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, cast

import msgspec
from msgspec import inspect

from core.config_read import Mistakes, read_struct, shown
from core.errors import BadConfig, BadName
from core.finding import Confidence
from detectors.sight import Sort

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from detectors.leak import LeakMeter
    from detectors.sight import Watch

    Table = Mapping[str, Any]

LEAK: Final = "leak"  # the one that looks before a query is sent on
BLOCK_AT: Final = "block_at"  # this and the next: keys every detector has beside its own
ALERT_AT: Final = "alert_at"
LEVELS: Final[Mapping[str, tuple[str, ...]]] = {  # what they may be, the first where nothing is written
    BLOCK_AT: ("HIGH", "MEDIUM"), ALERT_AT: ("MEDIUM", "LOW", "HIGH"),
}  # fmt: skip
_PATH: Final = "detectors"


class HasMode(Protocol):
    """The settings of any detector."""

    @property
    def mode(self) -> str:
        """`block`, `alert` or `off`."""


class Part(NamedTuple):
    """A detector that is on: the leak meter, or a Watch."""

    name: str
    can_block: bool  # there is a mode `block`
    blocks: bool  # and it is in force
    block_at: Confidence  # from which confidence on it blocks
    alert_at: Confidence  # and from which it alerts
    watch: Watch | None
    meter: LeakMeter | None = None
    sees: Sort = Sort.ALL  # what the Watch is shown


class Kind(NamedTuple):
    """How a detector is made, and what it is shown: it would do nothing with other sights."""

    settings: Callable[[], type[msgspec.Struct]]
    make: Callable[[Any], Watch]
    sees: Sort = Sort.ALL


def build(tables: Mapping[str, Table], *, started: float, blocking: bool = False) -> list[Part]:
    """Return the detectors that are on; raises BadConfig with every mistake.

    `started` is when learning began, in Unix seconds. `blocking`: as if all were in mode `block` that have it.
    """
    mistakes = Mistakes()
    _check_names(tables, mistakes)
    found = [_part(name, tables.get(name, {}), started, mistakes, blocking=blocking) for name in NAMES]
    if mistakes.lines:
        raise BadConfig(mistakes.lines)
    return [part for part in found if part is not None]


def check(tables: Mapping[str, Table]) -> None:
    """Raise BadConfig with every mistake, models unread."""
    mistakes = Mistakes()
    _check_names(tables, mistakes)
    for name in NAMES:
        _settings(name, tables.get(name, {}), mistakes)
    if mistakes.lines:
        raise BadConfig(mistakes.lines)


def leak_meter(tables: Mapping[str, Table], *, started: float) -> LeakMeter | None:
    """Return the leak meter alone, None when it is off; raises BadConfig."""
    mistakes = Mistakes()
    part = _part(LEAK, tables.get(LEAK, {}), started, mistakes, blocking=False)
    if mistakes.lines:
        raise BadConfig(mistakes.lines)
    return None if part is None else part.meter


def _check_names(tables: Mapping[str, Table], mistakes: Mistakes) -> None:
    for name in tables:
        if name not in NAMES:
            near = get_close_matches(name, NAMES, n=1)
            mistakes.add(f"{_PATH}.{name}", f"there is no such detector; write {near[0] if near else ', '.join(NAMES)}")


def _settings(name: str, table: Table, mistakes: Mistakes) -> tuple[Any, inspect.StructType, Mapping[str, Confidence]]:
    """Return the settings of a detector, their shape, and the levels at which it blocks and alerts."""
    path = f"{_PATH}.{name}"
    own = {key: value for key, value in table.items() if key not in LEVELS}
    levels = {key: _level(key, table, path, mistakes) for key in LEVELS}
    kind = KINDS.get(name)
    settings_type = _leak_settings() if kind is None else kind.settings()
    shape = cast("inspect.StructType", inspect.type_info(settings_type))
    return read_struct(shape, own, path, mistakes), shape, levels


def _level(key: str, table: Table, path: str, mistakes: Mistakes) -> Confidence:
    choices = LEVELS[key]
    given = table.get(key, choices[0])
    if given in choices:
        return Confidence[given]
    options = " or ".join(f'"{choice}"' for choice in choices)
    mistakes.add(f"{path}.{key}", f"{shown(given)} is not one of the choices; write {options}")
    return Confidence[choices[0]]


def _part(name: str, table: Table, started: float, mistakes: Mistakes, *, blocking: bool) -> Part | None:
    before = len(mistakes.lines)
    settings, shape, levels = _settings(name, table, mistakes)
    if len(mistakes.lines) > before or settings.mode == "off":
        return None
    can_block = "block" in _modes(shape)
    if blocking and can_block:
        settings = msgspec.structs.replace(settings, mode="block")
    kind = KINDS.get(name)
    try:
        watch = None if kind is None else kind.make(settings)
        meter = _leak(settings, started) if kind is None else None
    except (BadName, ValueError) as error:
        mistakes.add(f"{_PATH}.{name}", str(error))
        return None
    return Part(
        name,
        can_block,
        settings.mode == "block",
        levels[BLOCK_AT],
        levels[ALERT_AT],
        watch,
        meter,
        Sort.ALL if kind is None else kind.sees,
    )


def _modes(shape: inspect.StructType) -> tuple[Any, ...]:
    mode = next(field.type for field in shape.fields if field.name == "mode")
    return mode.values if isinstance(mode, inspect.LiteralType) else ()


def _leak_settings() -> type[msgspec.Struct]:
    from detectors.leak import LeakSettings

    return LeakSettings


def _leak(settings: Any, started: float) -> LeakMeter:
    from detectors.leak import LeakMeter

    return LeakMeter(settings, started=started)


def _tunnel_settings() -> type[msgspec.Struct]:
    from detectors.tunnel import TunnelSettings

    return TunnelSettings


def _tunnel(settings: Any) -> Watch:
    from detectors.tunnel import TunnelWatch

    return TunnelWatch(settings)


def _flux_settings() -> type[msgspec.Struct]:
    from detectors.flux import FluxSettings

    return FluxSettings


def _flux(settings: Any) -> Watch:
    from detectors.flux import Flux

    return Flux(settings)


def _young_settings() -> type[msgspec.Struct]:
    from detectors.young import YoungSettings

    return YoungSettings


def _young(settings: Any) -> Watch:
    from detectors.young import Young

    return Young(settings)


def _lookalike_settings() -> type[msgspec.Struct]:
    from detectors.lookalike import LookalikeSettings

    return LookalikeSettings


def _lookalike(settings: Any) -> Watch:
    from detectors.lookalike import Lookalike

    return Lookalike(settings)


def _storm_settings() -> type[msgspec.Struct]:
    from detectors.storm import StormSettings

    return StormSettings


def _storm(settings: Any) -> Watch:
    from detectors.storm import Storm

    return Storm(settings)


def _dga_settings() -> type[msgspec.Struct]:
    from detectors.dga import DgaSettings

    return DgaSettings


def _dga(settings: Any) -> Watch:
    from detectors.dga import DgaWatch
    from detectors.dga_groups import load_groups
    from detectors.dga_score import load_model

    model = load_model(settings.dynamic)
    return DgaWatch(settings, score=model.score, groups=load_groups(), level=model.confidence, telling=model.telling)


def _beacon_settings() -> type[msgspec.Struct]:
    from detectors.beacon import BeaconSettings

    return BeaconSettings


def _beacon(settings: Any) -> Watch:
    from detectors.beacon import Beacon

    return Beacon(settings)


def _bypass_settings() -> type[msgspec.Struct]:
    from detectors.bypass import BypassSettings

    return BypassSettings


def _bypass(settings: Any) -> Watch:
    from detectors.bypass import Bypass

    return Bypass(settings)


KINDS: Final[Mapping[str, Kind]] = {
    "tunnel": Kind(_tunnel_settings, _tunnel, Sort.ALL & ~Sort.HIT),
    "dga": Kind(_dga_settings, _dga, Sort.OPEN),
    "beacon": Kind(_beacon_settings, _beacon, Sort.OPEN),
    "flux": Kind(_flux_settings, _flux, Sort.ADDRESSED),
    "young": Kind(_young_settings, _young, Sort.OPEN),
    "lookalike": Kind(_lookalike_settings, _lookalike, Sort.OPEN),
    "storm": Kind(_storm_settings, _storm),
    "bypass": Kind(_bypass_settings, _bypass, Sort.OPEN),
}
NAMES: Final = ("leak", *KINDS)
