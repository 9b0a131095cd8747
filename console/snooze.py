"""`plughole snooze`: no alert about a domain for a while; what is blocked stays blocked."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from console import show
from console.override import person
from console.params import Address, DomainName, Duration, Sentence, configured, examples
from core.errors import PlugholeError

if TYPE_CHECKING:
    from core.config import Config


@click.command(
    short_help="Hear nothing of a domain for a while.",
    epilog=examples(
        'plughole snooze cdn.example --for 8h --reason "roll-out of the week"',
        "plughole snooze cdn.example --client 192.0.2.7 --detector beacon --for 7d --reason known",
    ),
)
@configured
@click.argument("domain", type=DomainName(), metavar="DOMAIN")
@click.option("--client", type=Address(), help="Only of this client.")
@click.option("--detector", default="", help="Only of this detector. Default: all.")
@click.option("--for", "seconds", type=Duration(), required=True, help="For how long: 90s, 10m, 2h, 7d.")
@click.option("--reason", type=Sentence(), required=True, help="Why.")
def snooze(  # noqa: PLR0917  the options of a command
    config: Config, domain: str, client: str | None, detector: str, seconds: float, reason: str
) -> None:
    """Raise no alert about DOMAIN for a while, on this node. What is blocked stays blocked; see `plughole allow`."""
    from detectors.registry import NAMES
    from resolver.decisions import Decision, Decisions

    if detector and detector not in NAMES:
        raise PlugholeError(f"there is no detector {detector}; there are {', '.join(NAMES)}")
    now = time.time()
    decision = Decision(
        what="snooze", domain=domain, client=client or "", reason=reason, by=person(), at=now, until=now + seconds,
        detector=detector,
    )  # fmt: skip
    try:
        Decisions(config.data_dir).add(decision)
    except OSError as error:
        raise PlugholeError(f"{config.data_dir}: {error.strerror}; run it as the user that runs the node") from None
    show.line(f"{domain}: no alert until {show.moment(now + seconds)}")
