"""AWS: entries of managed prefix lists (EC2), which rule groups, security groups and routes refer to. Extra `aws`.

`list` names one prefix list for IPv4, one for IPv6 or both: "eu-central-1/pl-0a1b,pl-0c2d"; without a region the one
of the environment holds. `user` and `secret_file` are an access key; without them the usual chain of credentials is
asked. Only entries with our description are read and removed. Entries know no ends.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from egress.enforcer import Absent, Failure, Refused, Standing, Target
from egress.firewalls import secret
from egress.firewalls.listed import Listed, Rejected, host_of, version_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

OURS: Final = "plughole"  # the description of our entries
PIECE: Final = 100  # entries one change may have
PAGE: Final = 100  # entries one page may have
SETTLES: Final = 30.0  # seconds a change may take over there
POLL: Final = 0.5  # seconds
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 20
_BUSY: Final = frozenset({"create-in-progress", "modify-in-progress", "restore-in-progress"})
_ABSENT: Final = frozenset({"InvalidPrefixListID.NotFound", "InvalidPrefixListId.NotFound"})
_DENIED: Final = frozenset({"AuthFailure", "UnauthorizedOperation", "InvalidClientTokenId", "SignatureDoesNotMatch",
                            "ExpiredToken", "RequestExpired"})  # fmt: skip
_SLOW: Final = frozenset({"RequestLimitExceeded", "Throttling", "ThrottlingException"})
_FULL: Final = ("PrefixListMaxEntriesExceeded", "LimitExceeded", "ResourceLimit")
_FAMILIES: Final = {"IPv4": 4, "IPv6": 6}


class _Known(msgspec.Struct, frozen=True):
    number: str
    version: int


class Aws(Listed):
    """An `Enforcer` over our entries of one or two managed prefix lists."""

    def __init__(self, firewall: Firewall, base: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        self._firewall = firewall
        self._secret = secret.read(firewall, base)
        self._ca = str(base / firewall.tls_ca_file) if firewall.tls_ca_file else None
        self._region, _, numbers = firewall.list.rpartition("/")
        self._numbers = [each.strip() for each in numbers.split(",") if each.strip()]
        if not 1 <= len(self._numbers) <= 2 or not all(each.startswith("pl-") for each in self._numbers):
            raise Refused(f'{self.what}: list must name one or two prefix lists: "eu-central-1/pl-0a1b,pl-0c2d"')
        self._ec2: Any = None

    def prepare(self) -> None:
        """The SDK is there, and the lists are, one a family; the administrator makes them."""
        self._lists()

    def close(self) -> None:
        """The connection is closed; entries stay."""
        if self._ec2 is not None:
            self._ec2.close()
            self._ec2 = None

    def _held(self) -> list[Standing]:
        entries = self._entries()
        return [Standing(Target(host), math.inf) for host, ours in entries.items() if ours]

    def _entries(self) -> dict[str, bool]:
        """Return each address the lists hold, and whether the entry is ours."""
        found: dict[str, bool] = {}
        for known in self._lists().values():
            for entry in self._pages(known.number):
                if host := host_of(entry.get("Cidr", "")):
                    found[host] = entry.get("Description", "") == OURS
        return found

    def _pages(self, number: str) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        for _ in range(0, 2 * self._room + PAGE, PAGE):
            page = self._read("get_managed_prefix_list_entries", PrefixListId=number, MaxResults=PAGE, **token)
            yield from page.get("Entries", ())
            if not page.get("NextToken"):
                return
            token = {"NextToken": page["NextToken"]}
        raise Refused(f"{self.what}: {number} has more entries than max_entries lets us know")

    def _lists(self) -> dict[int, _Known]:
        """Return the list of each family; waits while one is being changed."""
        deadline = time.monotonic() + SETTLES
        while True:
            found = self._read("describe_managed_prefix_lists", PrefixListIds=self._numbers).get("PrefixLists", [])
            if not any(each.get("State") in _BUSY for each in found):
                break
            if time.monotonic() > deadline:
                raise Refused(f"{self.what}: a change takes more than {SETTLES:g} s")
            time.sleep(POLL)
        if {each["PrefixListId"] for each in found} != set(self._numbers):
            raise Absent(f"{self.what}: a prefix list is gone")
        lists = {
            _FAMILIES.get(each["AddressFamily"], 0): _Known(each["PrefixListId"], each["Version"]) for each in found
        }
        if len(lists) != len(found):
            raise Refused(f"{self.what}: both prefix lists are of one family")
        return lists

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        there = self._entries()  # what is listed already, by whomever, would make a change fail as a whole
        targets = [lease.target for lease in (*fresh, *again) if lease.target.address not in there]
        return self._changed(targets, lambda host: {"AddEntries": {"Cidr": host, "Description": OURS}})

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        there = self._entries()
        mine = [target for target in targets if there.get(target.address)]
        return self._changed(mine, lambda host: {"RemoveEntries": {"Cidr": host}})

    def _changed(self, targets: Sequence[Target], entry: Callable[[str], dict[str, Any]]) -> list[Failure]:
        families = self._lists()
        failures = [Failure(each, f"there is no prefix list for IPv{version_of(each.address)}")
                    for each in targets if version_of(each.address) not in families]  # fmt: skip
        for version in families:

            def do(piece: Sequence[Target], version: int = version) -> None:
                known = self._lists()[version]
                host = {4: "/32", 6: "/128"}[version]
                changes: dict[str, list[Any]] = {}
                for each in piece:
                    for key, value in entry(each.address + host).items():
                        changes.setdefault(key, []).append(value)
                self._call(
                    "modify_managed_prefix_list", PrefixListId=known.number, CurrentVersion=known.version, **changes
                )

            of_family = [each for each in targets if version_of(each.address) == version]
            failures += self.take_in_pieces(of_family, PIECE, do)
        return failures

    def _read(self, action: str, **fields: Any) -> dict[str, Any]:
        try:
            return self._call(action, **fields)
        except Rejected as error:
            raise Refused(f"{self.what}: {error}") from None

    def _call(self, action: str, **fields: Any) -> dict[str, Any]:
        """Return what EC2 answers; `Rejected` when the entries are to blame, `Refused` for all else."""
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found: dict[str, Any] = getattr(client, action)(**fields)
        except ClientError as error:
            raise self._fault(error.response.get("Error", {})) from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise Refused(f"{self.what}: does not answer as EC2 does: {type(error).__name__}") from None
        return found

    def _fault(self, error: dict[str, str]) -> Refused | Rejected:
        code = error.get("Code", "")
        words = " ".join(self._secret.hidden_in(f"{code}: {error.get('Message', '')}").split())[:200]
        if code in _ABSENT:
            return Absent(f"{self.what}: {words}")
        if code in _DENIED:
            return Refused(f"{self.what}: does not accept our key: {words}")
        if code in _SLOW:
            return Refused(f"{self.what}: too many requests for it")
        if code.startswith(("InvalidParameter", "InvalidPrefixList", *_FULL)):
            return Rejected(words, full=code.startswith(_FULL))
        return Refused(f"{self.what}: {words}")

    def _client(self) -> Any:
        if self._ec2 is None:
            try:
                import boto3
                from botocore.config import Config
                from botocore.exceptions import BotoCoreError
            except ImportError:
                raise Refused(f'{self.what}: the SDK is missing: pip install "plughole[aws]"') from None
            bounds = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"max_attempts": 1})
            key = {"aws_access_key_id": self._firewall.user, "aws_secret_access_key": self._secret.reveal()}
            try:
                self._ec2 = boto3.client(
                    "ec2", region_name=self._region or None, endpoint_url=self._firewall.url or None,
                    verify=self._ca, config=bounds, **(key if self._secret else {}),
                )  # fmt: skip
            except (BotoCoreError, ValueError) as error:
                raise Refused(f"{self.what}: {error}") from None
        return self._ec2
