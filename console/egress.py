"""`plughole egress`: the agent that blocks addresses, what it holds, and every way to take a block back."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from console import egress_pages, show
from console.override import person
from console.params import Duration, Moment, NameOrAddress, Sentence, Subject, as_json, configured, examples
from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from core.config import Config
    from egress.answers import Answer
    from egress.orders import Order, Refusal

ANSWER_SECONDS: Final = 5.0  # how long agents get to answer
REDIS_SECONDS: Final = 5.0  # until an agent takes Redis for gone
MAX_SHOWN: Final = 1000  # refusals
CURE: Final = "start one with `systemctl start plughole-egress` or `plughole egress agent`"
_REASON: Final = click.option("--reason", type=Sentence(), required=True, help="Why; it stands in the audit trail.")


class Told(NamedTuple):
    """What came of an order: the answers, and the agents that gave none."""

    answers: list[Answer]
    missing: list[str]

    @property
    def code(self) -> int:
        """The exit code: 1 when an agent did not answer or did not do it."""
        return 1 if self.missing or any(answer.error for answer in self.answers) else 0


@click.group(short_help="Blocks of addresses: list, release, panic ...")
def egress() -> None:
    """Run the agent that blocks addresses in firewalls, see what it holds, take blocks back."""


@egress.command(
    short_help="Run the agent.",
    epilog=examples("plughole egress agent", "plughole egress agent -c /etc/plughole/config.toml"),
)
@configured
def agent(config: Config) -> None:
    """Run the agent on the firewall's host, until Ctrl-C or SIGTERM. Blocks stay in the firewall until they run out."""
    import os
    import signal

    from console import logging
    from egress.assembly import build
    from resolver.notify import Notifier

    logging.set_up()
    notifier = Notifier(os.environ)
    begun = False

    def alive(status: str) -> None:
        nonlocal begun
        if not begun:
            notifier.ready(status)
            begun = True
        notifier.alive()

    running = build(config, lambda: _connected(config), alive=alive)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    running.run()
    notifier.stopping()


@egress.command(
    "list",
    short_help="List what is blocked and why.",
    epilog=examples(
        "plughole egress list",
        "plughole egress list --refused",
        "plughole egress list --changes",
        "plughole egress list --json",
    ),
)
@configured
@click.option("--refused", is_flag=True, help="What was not blocked, by which rule and why, the newest first.")
@click.option("--changes", is_flag=True, help="The last numbered changes, which `undo` takes back.")
@as_json
def list_(config: Config, *, refused: bool, changes: bool, as_json: bool) -> int:
    """List what each agent blocks, for whom, why and until when, and what that has stopped."""
    if refused and changes:
        raise click.UsageError("--refused and --changes exclude each other")
    if refused:
        egress_pages.refusals(_refusals(config), as_json=as_json)
        return 0
    told = _ask(config, "changes" if changes else "list")
    if as_json:
        show.document(egress_pages.document(told.answers, told.missing))
    elif changes:
        egress_pages.changes(told.answers)
    else:
        egress_pages.rows(told.answers)
    return _said(told)


@egress.command(
    short_help="Show what firewalls would be told now.",
    epilog=examples("plughole egress plan", "plughole egress plan --json"),
)
@configured
@as_json
def plan(config: Config, *, as_json: bool) -> int:
    """Show what each agent would change in its firewalls now; nothing, when they hold what is wanted."""
    told = _ask(config, "plan")
    if as_json:
        show.document(egress_pages.document(told.answers, told.missing))
    else:
        egress_pages.steps(told.answers)
    return _said(told)


@egress.command(
    short_help="Unblock an address, or all of a name.",
    epilog=examples(
        'plughole egress release 203.0.113.66 --reason "ticket 4711"',
        'plughole egress release shop.example --for 7d --reason "false alarm"',
    ),
)
@configured
@click.argument("name", type=NameOrAddress(), metavar="ADDRESS|NAME")
@click.option("--for", "seconds", type=Duration(), help="It is not blocked again for so long: 90s, 10m, 2h, 7d.")
@_REASON
@as_json
def release(config: Config, *, name: Subject, seconds: float | None, reason: str, as_json: bool) -> int:
    """Unblock ADDRESS for every client, or all addresses of NAME and what lies below it, on every agent."""
    from egress.orders import Release

    def order(now: float, reply: str) -> Order:
        address, domain = (name.value, b"") if name.is_address else (b"", name.value)
        until = now + seconds if seconds else 0.0
        return Release(now, person(), reason, address=address, domain=domain, until=until, reply=reply)

    return _done(config, order, what=name.text, reason=reason, as_json=as_json)


@egress.command(short_help="Unblock everything.", epilog=examples('plughole egress flush --reason "wrong feed"'))
@configured
@_REASON
@as_json
def flush(config: Config, *, reason: str, as_json: bool) -> int:
    """Unblock everything on every agent. What is asked for again is blocked again; `panic on` keeps it open."""
    from egress.orders import Flush

    return _done(
        config, lambda now, reply: Flush(now, person(), reason, reply=reply), what="everything", reason=reason,
        as_json=as_json,
    )  # fmt: skip


@egress.command(
    short_help="Take a change back.",
    epilog=examples("plughole egress undo 17", "plughole egress undo --since 10m"),
)
@configured
@click.argument("number", type=click.IntRange(1), required=False, metavar="[N]")
@click.option("--since", type=Moment(), help="All changes since: 10m, 2026-11-24T08:00:00Z.")
@as_json
def undo(config: Config, *, number: int | None, since: float | None, as_json: bool) -> int:
    """Take back change N (`plughole egress list --changes`), or all since a time: rows are as before it."""
    from egress.orders import Undo

    if (number is None) == (since is None):
        raise click.UsageError("either N or --since is needed")
    one = number is not None

    def order(now: float, reply: str) -> Order:
        return Undo(now, person(), number=number or 0, since=since or 0.0, reply=reply)

    what = f"change {number}" if one else f"changes since {show.moment(since or 0.0)}"
    return _done(config, order, what=what, reason="", as_json=as_json, one=one)


@egress.command(
    short_help="Open everything at once, or end that.",
    epilog=examples(
        'plughole egress panic on --reason "case 12"', 'plughole egress panic off --reason "was something else"'
    ),
)
@configured
@click.argument("state", type=click.Choice(("on", "off")))
@_REASON
@as_json
def panic(config: Config, *, state: str, reason: str, as_json: bool) -> int:
    """Have nothing blocked while it is on. What is wanted stays known, and is blocked again when it ends."""
    from egress.orders import Panic

    def order(now: float, reply: str) -> Order:
        return Panic(now, person(), reason, on=state == "on", reply=reply)

    return _done(config, order, what=f"panic {state}", reason=reason, as_json=as_json)


def _connected(config: Config) -> Redis:
    from feeds.redis import connect

    client = connect(config)
    pool = getattr(client, "connection_pool", None)  # a Cluster's client has one a node
    if pool is not None:
        pool.connection_kwargs["socket_timeout"] = REDIS_SECONDS
    return client


def _done(
    config: Config, order: Callable[[float, str], Order], *, what: str, reason: str, as_json: bool, one: bool = False
) -> int:
    """Have every agent do it, and say what came of it."""
    told = _tell(config, order, what=what, reason=reason, one=one)
    if as_json:
        show.document(egress_pages.document(told.answers, told.missing))
    else:
        for answer in told.answers:
            number = f", change {answer.transaction}" if answer.transaction else ""
            if answer.text:
                show.line(f"{answer.agent}: {answer.text}{number}")
    return _said(told)


def _ask(config: Config, what: str) -> Told:
    from egress.orders import Ask

    return _tell(config, lambda now, reply: Ask(now, what, reply))


def _tell(
    config: Config, order: Callable[[float, str], Order], *, what: str = "", reason: str = "", one: bool = False
) -> Told:
    """Send an order and wait for the agents that are alive. With `what` it is kept in the audit trail.

    Raises PlugholeError when no agent is alive, or, with `one`, more than one is.
    """
    from console.egress_agents import beats, clock
    from egress.agent import FRESH
    from feeds.redis import session

    with session(config) as client:
        awaited = [each.name for each, age in beats(client) if age <= FRESH]
        if one and len(awaited) > 1:
            raise PlugholeError(f"{', '.join(awaited)} have numbers of their own; use --since")
        if not awaited and not what:
            raise PlugholeError(f"no agent is alive; {CURE}")
        ident, now = secrets.token_hex(8), clock(client)
        made = order(now, ident)
        _send(client, made)
        if what:
            _audit(client, made, what=what, reason=reason, now=now)
        if not awaited:
            raise PlugholeError(f"no agent is alive, the order waits for one; {CURE}")
        answers = _answers(client, ident, len(awaited))
    named = {answer.agent for answer in answers}
    return Told(answers, [name for name in awaited if name not in named])


def _send(client: Redis, order: Order) -> None:
    from egress.orders import FIELD, MAX_ORDERS, ORDERS, encode

    redis: Any = client
    redis.xadd(ORDERS, {FIELD: encode(order)}, maxlen=MAX_ORDERS, approximate=True)


def _audit(client: Redis, order: Order, *, what: str, reason: str, now: float) -> None:
    """Write who did it into the trail `allow` and `block` write to."""
    import msgspec

    from feeds.overlay import MAX_AUDIT, Change

    kind = type(order).__name__.lower()
    change = Change(now, f"egress {kind}", what, "", "", "", getattr(order, "until", 0.0), reason, person())
    redis: Any = client
    redis.xadd("audit", {"seq": 0, "change": msgspec.json.encode(change)}, maxlen=MAX_AUDIT, approximate=True)


def _answers(client: Redis, ident: str, count: int) -> list[Answer]:
    from core.errors import UNREADABLE
    from egress.answers import decode
    from egress.orders import ANSWER

    redis: Any = client
    answers: list[Answer] = []
    deadline = time.monotonic() + ANSWER_SECONDS
    while len(answers) < count and (left := deadline - time.monotonic()) > 0:
        found = redis.blpop([ANSWER + ident], timeout=max(left, 0.01))
        if found is None:
            break
        try:
            answers.append(decode(found[1]))
        except UNREADABLE:
            count -= 1
    return sorted(answers, key=lambda answer: answer.agent)


def _said(told: Told) -> int:
    for answer in told.answers:
        if answer.error:
            show.note(f"{answer.agent}: {answer.error}")
    if told.missing:
        show.note(f"no answer within {ANSWER_SECONDS:g} s from {', '.join(told.missing)}; its log says why")
    return told.code


def _refusals(config: Config) -> list[Refusal]:
    from core.errors import UNREADABLE
    from egress.orders import FIELD, REFUSED, decode_refusal
    from feeds.redis import session

    found: list[Refusal] = []
    with session(config) as client:
        redis: Any = client
        for _, fields in redis.xrevrange(REFUSED, count=MAX_SHOWN):
            try:
                found.append(decode_refusal(fields.get(FIELD, b"")))
            except UNREADABLE:
                continue  # written by a newer version
    return found
