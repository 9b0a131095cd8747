"""`plughole explain`: what would happen to a name or address, and every reason, with nothing sent anywhere."""

from __future__ import annotations

import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import msgspec

from console import show
from console.params import Address, NameOrAddress, RecordType, Subject, as_json, configured, examples
from core import names, rr
from core.verdict import Action, Cause, Reason, Trigger, Verdict
from journal.reasons import as_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import Config
    from feeds.overlay import Override
    from resolver.policy import Policy, View

_WOULD: Final = {
    Action.NONE: "resolve", Action.PASSTHRU: "resolve", Action.ALERT: "resolve", Action.NODATA: "nodata",
    Action.NXDOMAIN: "nxdomain", Action.DROP: "drop", Action.TCP_ONLY: "truncate",
}  # fmt: skip
NOT_READY: Final = (
    "threat intelligence is not loaded yet; `plughole feeds update` fetches it, `plughole serve` loads it"
)


class Explanation(NamedTuple):
    """What would happen to one question."""

    subject: Subject
    qtype: int
    client: str | None
    view: str
    verdict: Verdict
    would: str
    generation: int

    def row(self) -> dict[str, Any]:
        """Return the JSON object of docs/cli.md."""
        return {
            "name": self.subject.text,
            "type": rr.type_text(self.qtype),
            "client": self.client,
            "view": self.view,
            "action": self.verdict.action.name,
            "cause": self.verdict.cause.name.lower(),
            "would": self.would,
            "reasons": as_rows(self.verdict.reasons),
            "generation": self.generation,
        }


class Explainer:
    """The node's policy, opened from what it keeps on disk; `overrides` take the place of those it had in force."""

    def __init__(self, config: Config, *, now: float, overrides: Sequence[Override] | None = None) -> None:
        """Raise PlugholeError when the index cannot be opened or the hosts file not read."""
        from feeds.index import Index
        from resolver.control import intel_dir, read_state
        from resolver.local import LocalZones
        from resolver.policy import Policy

        state = read_state(config.data_dir)
        self._config = config
        zones = [names.from_text(zone.name) for zone in config.upstream.zone]
        self._local = LocalZones(config.local, base=Path(config.base), zones=zones)
        self._settled = state.settled
        self._generation = state.generation
        self._policy: Policy = Policy(cache_bytes=0)
        self._policy.use_index(Index.open(intel_dir(config.data_dir) / state.index) if state.index else None)
        self.use_overrides(state.overrides if overrides is None else overrides, now)

    def use_overrides(self, overrides: Sequence[Override], now: float) -> None:
        """Judge by these from now on."""
        self._policy.use_overrides(overrides, now)

    def explain(self, subject: Subject, *, client: str | None = None, qtype: int = rr.A) -> Explanation:
        """Return what would happen if `client`, or somebody without rules of their own, asked now."""
        view = self._policy.view_of(ip_address(client).packed) if client else self._policy.default
        found = self._refusal(client, qtype) or self._here(subject, qtype)
        if found is not None:
            verdict, would = found
        else:
            verdict = self._verdict(subject, view)
            would = self._would(verdict.action, qtype)
        return Explanation(subject, qtype, client, view.name, verdict, would, self._generation)

    def _verdict(self, subject: Subject, view: View) -> Verdict:
        from resolver.judge import rebound
        from resolver.policy import address_key, verdict
        from resolver.rebind import lies_inside

        if subject.is_address and self._config.local.rebind_protection and lies_inside(subject.value):
            return rebound(Trigger.ADDRESS, subject.value)
        keys = [address_key(subject.value)] if subject.is_address else names.suffixes(subject.value)
        ruling = self._policy.rule(keys, view)
        found = verdict(ruling, keys, trigger=Trigger.ADDRESS if subject.is_address else Trigger.QNAME)
        if ruling.override is None or not ruling.override.expires:
            return found
        first = found.reasons[0]
        dated = msgspec.structs.replace(first, text=f"{first.text}, until {show.moment(ruling.override.expires)}")
        return msgspec.structs.replace(found, reasons=(dated, *found.reasons[1:]))

    def _refusal(self, client: str | None, qtype: int) -> tuple[Verdict, str] | None:
        """Return what keeps the question from being judged at all."""
        if client and not _within(client, self._config.server.allow_from):
            text = "the client is in no network of server.allow_from"
            reason = Reason(Cause.ACCESS, Action.NONE, "server.allow_from", client, text=text)
            return Verdict(Action.NONE, Cause.ACCESS, (reason,)), "refused"
        if qtype in (rr.AXFR, rr.IXFR, rr.OPT):
            reason = Reason(Cause.ACCESS, Action.NONE, "resolver", rr.type_text(qtype), text="this type is not served")
            return Verdict(Action.NONE, Cause.ACCESS, (reason,)), "refused"
        if not self._settled:
            reason = Reason(Cause.ACCESS, Action.NONE, "resolver", "intelligence", text=NOT_READY)
            return Verdict(Action.NONE, Cause.ACCESS, (reason,)), "servfail"
        return None

    def _here(self, subject: Subject, qtype: int) -> tuple[Verdict, str] | None:
        """Return what is answered without asking anybody: local and special-use names."""
        made = None if subject.is_address else self._local.find(names.suffixes(subject.value), qtype)
        if made is None:
            return None
        rcode = rr.rcode_text(made.rcode).lower()
        would = rcode if made.rcode or made.counts[:2] != bytes(2) else "nodata"
        text = "a local or special-use name, see docs/local.md; nothing is asked outside"
        return Verdict(
            Action.NONE, Cause.LOCAL, (Reason(Cause.LOCAL, Action.NONE, "local", subject.text, text=text),)
        ), would

    def _would(self, action: Action, qtype: int) -> str:
        if action is not Action.SINKHOLE:
            return _WOULD[action]
        addresses = {rr.A: self._config.sinkhole.ipv4, rr.AAAA: self._config.sinkhole.ipv6}
        return f"sinkhole {addresses[qtype]}" if qtype in addresses else "nodata"


@click.command(
    short_help="Show what would happen to a name, and why.",
    epilog=examples(
        "plughole explain c2.evil.example", "plughole explain www.example.com --client 192.0.2.7 --type HTTPS --json"
    ),
)
@configured
@click.argument("name", type=NameOrAddress(), metavar="NAME")
@click.option("--client", type=Address(), help="Who asks. Default: somebody without overrides of their own.")
@click.option("--type", "qtype", type=RecordType(), default="A", show_default=True, help="What is asked for.")
@as_json
def explain(config: Config, *, name: Subject, client: str | None, qtype: int, as_json: bool) -> None:
    """Show what would happen to NAME, a name or an address in an answer, and every reason. Nothing is sent."""
    found = Explainer(config, now=time.time()).explain(name, client=client, qtype=qtype)
    if as_json:
        show.document(found.row())
    else:
        _page(found)


def _page(found: Explanation) -> None:
    verdict = found.verdict
    who = f" for {found.client}" if found.client else ""
    what = f"an answer that holds {found.subject.text}" if found.subject.is_address else found.subject.text
    head = show.plain(f"{what} {rr.type_text(found.qtype)}{who} (view {found.view}): ")
    click.echo(head + show.action(verdict.action.name, found.would))
    cause = f", decided by {verdict.cause.name.lower()}" if verdict.cause else ": nothing is known about it"
    show.line(f"action {verdict.action.name}{cause}; intelligence generation {found.generation}")
    for number, reason in enumerate(verdict.reasons):
        show.line(f"{'->' if number == 0 else '  '} {reason.line()}")


def _within(client: str, networks: Sequence[str]) -> bool:
    address = ip_address(client)
    return any(address in ip_network(text, strict=False) for text in networks)
