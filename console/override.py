"""`plughole allow`, `block`, `forget` and `overrides`: an analyst's word, in force with the next query."""

from __future__ import annotations

import getpass
import os
import time
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from console import show
from console.params import Duration, NameOrAddress, Scope, Sentence, Subject, as_json, configured, examples
from core.errors import PlugholeError
from core.verdict import Action

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from console.explain import Explanation
    from core.config import Config
    from feeds.overlay import Overlay, Override

APPLIED_SECONDS: Final = 2.0  # how long nodes get to confirm
DEFAULT_VIEW: Final = "default"
MAX_TEXT: Final = 512  # characters of a view and of who did it


class Force(NamedTuple):
    """Where a change is in force: how many nodes confirmed, and which have not."""

    sequence: int
    nodes: int
    behind: list[str]

    def line(self) -> str:
        """Return it as one line for a person."""
        if not self.nodes:
            return "stored, no node has confirmed it yet" if self.behind else "stored, in force when a node starts"
        return f"in force on {self.nodes} node{'' if self.nodes == 1 else 's'}"


def _change_options(command: Callable[..., int | None]) -> Callable[..., int | None]:
    for option in (
        as_json,
        click.option(
            "--reason", type=Sentence(), required=True, help="Why; it stands in the log beside every query it decides."
        ),
        click.option(
            "--for", "seconds", type=Duration(), help="For how long: 90s, 10m, 2h, 7d. Default: until `forget`."
        ),
        click.option("--view", help="Only for the clients of this view."),
        click.option("--client", type=Scope(), help="Only for this client address or prefix."),
        click.argument("name", type=NameOrAddress(), metavar="NAME"),
        configured,
    ):
        command = option(command)
    return command


@click.command(
    short_help="Answer a name whatever feeds say.",
    epilog=examples(
        'plughole allow shop.example --for 2h --reason "ticket 4711"',
        "plughole allow shop.example --client 192.0.2.7 --reason test",
    ),
)
@_change_options
def allow(config: Config, **given: Any) -> int:
    """Answer NAME and what lies below it, whatever feeds and detectors say. NAME may be an address in answers."""
    return _put(config, Action.PASSTHRU, **given)


@click.command(
    short_help="Sinkhole a name.",
    epilog=examples(
        'plughole block evil.example --reason "seen in case 12"',
        'plughole block 203.0.113.66 --for 7d --reason "C2 of case 12"',
    ),
)
@_change_options
def block(config: Config, **given: Any) -> int:
    """Sinkhole NAME and what lies below it, or every answer that holds the address NAME."""
    return _put(config, Action.SINKHOLE, **given)


@click.command(
    short_help="Take `allow` or `block` back.",
    epilog=examples("plughole forget shop.example", "plughole forget shop.example --client 192.0.2.7"),
)
@configured
@click.argument("name", type=NameOrAddress(), metavar="NAME")
@click.option("--client", type=Scope(), help="Only the override for this client or prefix.")
@as_json
def forget(config: Config, *, name: Subject, client: str | None, as_json: bool) -> int:
    """Take back what `allow` and `block` said about NAME: feeds and detectors decide again."""
    from feeds.overlay import Overlay
    from feeds.redis import session

    with session(config) as redis:
        overlay = Overlay(redis)
        sequence = overlay.forget(_key(name), client, by=person(), now=time.time())
        if sequence is None:
            who = f" for {client}" if client else ""
            raise PlugholeError(f"there is no override of {name.text}{who}; `plughole overrides` lists what is there")
        force = _wait(overlay, sequence)
    if as_json:
        show.document({"name": name.text, "client": client, **_force_row(force)})
    else:
        show.line(f"{name.text}: forgotten, {force.line()}")
    return _warn(force)


@click.command(
    short_help="List what `allow` and `block` said.", epilog=examples("plughole overrides", "plughole overrides --json")
)
@configured
@as_json
def overrides(config: Config, *, as_json: bool) -> None:
    """List the overrides in force: who said what, why and until when."""
    from feeds.overlay import Overlay
    from feeds.redis import session

    with session(config) as redis:
        found = [_row(item) for item in Overlay(redis).all(time.time())]
    if as_json:
        show.document(found)
    elif found:
        columns = ("name", "action", "client", "view", "until", "by", "since", "reason")
        show.table(columns, [[row[key] for key in _KEYS] for row in found])
    else:
        show.note("no overrides; `plughole allow` and `plughole block` make them")


_KEYS: Final = ("name", "action", "client", "view", "expires", "by", "created", "reason")


def _put(
    config: Config,
    action: Action,
    *,
    name: Subject,
    client: str | None,
    view: str | None,
    seconds: float | None,
    reason: str,
    as_json: bool,
) -> int:
    from feeds.overlay import Overlay, Override
    from feeds.redis import session

    _check_scope(name, client, view)
    now = time.time()
    expires = now + seconds if seconds else 0.0
    item = Override(_key(name), action, client or "", view or "", expires, reason, person(), now)
    with session(config) as redis:
        overlay = Overlay(redis)
        before, after = _effect(config, overlay.all(now), item, name, now)
        force = _wait(overlay, overlay.put(item))
    if as_json:
        effect = {"before": _outcome(before), "after": _outcome(after)}
        show.document({**_row(item), **_force_row(force), **effect})
    else:
        _say(item, before, after, force)
    return _warn(force)


def _check_scope(name: Subject, client: str | None, view: str | None) -> None:
    """Refuse what cannot be meant; raises UsageError."""
    if client and view:
        raise click.UsageError("--client and --view exclude each other")
    if view is not None and (not view.strip() or len(view) > MAX_TEXT):
        raise click.UsageError(f"--view needs a name of 1 to {MAX_TEXT} characters")
    if name.value == b"\x00":
        raise click.UsageError("the root is every name; name what is meant")
    if not name.is_address and name.value.startswith(b"\x01*"):
        raise click.UsageError("leave out `*.`: what lies below a name is always meant too")
    if view not in (None, DEFAULT_VIEW):
        show.note(f"no client of this node is in the view {view}: only {DEFAULT_VIEW} exists here")


def _effect(
    config: Config, present: list[Override], item: Override, name: Subject, now: float
) -> tuple[Explanation, Explanation]:
    """Return what would happen without and with the override, to a client it is meant for."""
    from console.explain import Explainer

    client = str(_somebody(item.client)) if item.client else None
    explainer = Explainer(config, now=now, overrides=present)
    before = explainer.explain(name, client=client)
    explainer.use_overrides([*(other for other in present if other.field != item.field), item], now)
    return before, explainer.explain(name, client=client)


def _somebody(scope: str) -> IPv4Address | IPv6Address:
    """Return an address of the scope: the first one that can be a host."""
    network = ip_network(scope, strict=False)
    return network[1] if network.num_addresses > 1 else network[0]


def _wait(overlay: Overlay, sequence: int) -> Force:
    behind = overlay.wait_applied(sequence, APPLIED_SECONDS)
    return Force(sequence, max(len(overlay.nodes()) - len(behind), 0), behind)


def _warn(force: Force) -> int:
    if force.behind:
        late = ", ".join(force.behind)
        show.note(f"not confirmed within {APPLIED_SECONDS:g} s by {late}; `plughole status` there says why")
    return 0


def _say(item: Override, before: Explanation, after: Explanation, force: Force) -> None:
    row = _row(item)
    scope = f" for {item.client or f'view {item.view}'}" if item.client or item.view else ""
    until = f" until {row['expires']}" if row["expires"] else ""
    show.line(f"{row['name']}: {row['action']}{scope}{until}, {force.line()}")
    if before.would == after.would:
        show.line(f"no change: it would {_verb(after.would)} as before")
    else:
        show.line(f"before: {before.would} ({_why(before)}); now: {after.would}")


def _verb(would: str) -> str:
    return would if would in ("resolve", "drop", "truncate") else f"be answered {would}"


def _why(found: Explanation) -> str:
    first = next(iter(found.verdict.reasons), None)
    return f"{first.source}: {first.indicator}" if first else "nothing is known about it"


def _outcome(found: Explanation) -> dict[str, Any]:
    return {key: value for key, value in found.row().items() if key in ("action", "cause", "would", "reasons")}


def _row(item: Override) -> dict[str, Any]:
    from resolver.policy import key_text

    return {
        "name": key_text(item.name),
        "action": item.action.name,
        "client": item.client or None,
        "view": item.view or None,
        "expires": show.moment(item.expires) or None,
        "reason": item.reason,
        "by": item.by,
        "created": show.moment(item.created),
    }


def _force_row(force: Force) -> dict[str, Any]:
    return {"sequence": force.sequence, "nodes": force.nodes, "behind": force.behind}


def _key(name: Subject) -> bytes:
    from resolver.policy import address_key

    return address_key(name.value) if name.is_address else name.value


def person() -> str:
    """Return the user of the operating system who typed the command, the one before sudo if there was one."""
    try:
        person = os.environ.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):  # a user id without a name; KeyError until Python 3.13
        person = f"uid {os.getuid()}"
    return person.encode("utf-8", "replace").decode()[:MAX_TEXT]
