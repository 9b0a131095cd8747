"""The command `plughole`: its sub-commands, and the one place where an error becomes a line and an exit code.

Exit codes: 0 fine, 1 failed, 2 bad usage or configuration. Commands return their code; None means 0.
"""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from console import (
    alerts,
    doctor,
    egress,
    explain,
    feeds,
    flows,
    hunt,
    leaks,
    log,
    override,
    serve,
    show,
    snooze,
    status,
)
from core.errors import BadConfig, PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable

FINE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
DEBUG: Final = "PLUGHOLE_DEBUG"  # set: an error nobody foresaw shows its traceback


class Front(click.Group):
    """The group of all commands; never lets an exception or a traceback out."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run a command line and exit."""
        kwargs["standalone_mode"] = False
        kwargs["prog_name"] = kwargs.get("prog_name") or "plughole"
        sys.exit(_guarded(lambda: super(Front, self).main(*args, **kwargs)))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has seen enough (`| head`) is no failure."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _point_nowhere()
            return FINE
        return code


def _guarded(run: Callable[[], Any]) -> int:
    try:
        return int(run() or FINE)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return MISUSED
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "plughole"
        show.note(f"{path}: {error.format_message().rstrip('.')}; see `{path} --help`")
        return MISUSED
    except BadConfig as error:
        for mistake in error.mistakes:
            show.error(mistake)
        return MISUSED
    except (click.ClickException, PlugholeError) as error:
        show.error(error.format_message() if isinstance(error, click.ClickException) else str(error))
    except (click.Abort, KeyboardInterrupt):
        show.error("interrupted")
    except OSError as error:
        show.error(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        show.error(
            f"a mistake in plughole itself, {type(error).__name__}: {error}; {DEBUG}=1 shows where, please report it"
        )
    return FAILED


def _point_nowhere() -> None:
    """Send what is still buffered for the closed pipe to /dev/null, or the interpreter complains at its end."""
    with contextlib.suppress(OSError):  # standard output that is no file has nothing to point elsewhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001  click's signature
    if not value or ctx.resilient_parsing:
        return
    try:
        click.echo(f"plughole {version('plughole')}")
    except PackageNotFoundError:
        click.echo("plughole, not installed")
    ctx.exit()


@click.group(cls=Front, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """A DNS resolver that sinkholes what threat intelligence calls malicious, and says why."""


for _command in (
    serve.serve, serve.check, doctor.doctor, status.status, feeds.feeds, explain.explain, log.log, log.top,
    override.allow, override.block, override.forget, override.overrides, hunt.hunt, snooze.snooze,
    alerts.alerts, leaks.leaks, egress.egress, flows.flows,
):  # fmt: skip
    cli.add_command(_command)


def main() -> NoReturn:
    """Be the command `plughole`."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to fail
    cli.main()


if __name__ == "__main__":
    main()
