"""Firewalls other than this machine's own, one file a kind, each an `Enforcer`: docs/egress-firewalls.md."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from egress.enforcer import Refused

if TYPE_CHECKING:
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Enforcer

_KEEPS_A_FILE: Final = frozenset({"edl", "webhook"})
_LOCAL: Final = frozenset({"ipset"})
KINDS: Final = ("aws", "crowdsec", "edl", "fortigate", "ipset", "mikrotik", "opnsense", "panos", "tencent", "webhook")


def build(firewall: Firewall, base: Path, data: Path | None = None) -> Enforcer:
    """Return the enforcer of that kind; nothing is asked of the firewall before its `prepare`.

    `base`: the folder names of files start from. `data`: the folder what some kinds have to remember is kept in, the
    folder `egress` in `base` if not given. Raises Refused when a key is missing or a file can not be read.
    """
    if firewall.kind not in KINDS:
        raise Refused(f"there is no firewall of kind {firewall.kind}")
    made: Any = getattr(import_module(f"egress.firewalls.{firewall.kind}"), firewall.kind.capitalize())
    if firewall.kind in _LOCAL:
        return cast("Enforcer", made(firewall))
    if firewall.kind in _KEEPS_A_FILE:
        return cast("Enforcer", made(firewall, base, (data or base / "egress") / f"{firewall.name}.json"))
    return cast("Enforcer", made(firewall, base))
