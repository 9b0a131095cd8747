"""Tencent Cloud Firewall: outbound bans of single addresses with an end, over the official SDK (extra `tencent`).

Rules:
1. Only rules of type 1 (ban an address) are made, in the outbound direction, and only for what nobody else has a rule.
2. Rules are deleted one by one, by address, never all (`DeleteAll`); access rules are not touched at all.
3. Ours are those whose comment is ours. `CoverDuplicate=0`: where an administrator lets an address pass, that stays.
4. Times are Beijing's (UTC+8), whatever the zone of the account or the machine.

`user` is the SecretId, `secret_file` the SecretKey; `url` only for another end point than the region's usual one.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from core.errors import UNREADABLE
from egress.enforcer import Failure, Refused, Standing, Target
from egress.firewalls.listed import Listed, Rejected, host_of
from egress.firewalls.secret import needed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from core.config import Firewall
    from egress.enforcer import Lease

REGION: Final = "ap-guangzhou"  # the firewall is one for all regions
PIECE: Final = 100  # rules in one request, and in one page of the listing
MAX_RULES: Final = 100_000  # read at most, ours and others'
TIMEOUT: Final = 20  # seconds for one request
RETRY: Final = 0.5  # seconds before the second try
MAX_EVENTS: Final = 50  # of one look into the audit
BEIJING: Final = dt.timezone(dt.timedelta(hours=8))
FOREVER: Final = "3000-01-01 00:00:00"
_STAMP: Final = "%Y-%m-%d %H:%M:%S"
_BAN: Final = 1
_OUT: Final = "0"
_ENDPOINTS: Final = {"cfw": "cfw.tencentcloudapi.com", "cloudaudit": "cloudaudit.tencentcloudapi.com"}
_VERSIONS: Final = {"cfw": "2019-09-04", "cloudaudit": "2019-03-19"}
_BLAMES_TARGET: Final = ("InvalidParameter", "LimitExceeded", "FailedOperation", "MissingParameter")


class _Rule(msgspec.Struct, rename="pascal"):
    ioc: str
    rule_type: int = 0
    direction_list: str | None = None
    end_time: str | None = None
    comment: str | None = None
    match_times: int | None = None


class _Event(msgspec.Struct, rename="pascal"):
    event_id: str = ""
    username: str = ""
    event_time: str = ""
    source_ip: str = msgspec.field(name="SourceIPAddress", default="")


class _Error(msgspec.Struct, rename="pascal"):
    code: str
    message: str = ""


class _Response(msgspec.Struct, rename="pascal"):
    request_id: str
    error: _Error | None = None
    return_code: int | None = None
    return_msg: str | None = None
    data: list[_Rule] | None = None
    events: list[_Event] | None = None


class _Reply(msgspec.Struct, rename="pascal"):
    response: _Response


class Audited(msgspec.Struct, frozen=True):
    """An entry of the cloud's own audit: who made which call, when and from where."""

    event: str
    name: str
    user: str
    at: str
    source: str


class Tencent(Listed):
    """An `Enforcer` over the outbound bans whose comment is "plughole" and `list`."""

    tells_end = True

    def __init__(self, firewall: Firewall, base: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(firewall, clock=clock)
        if not firewall.user:
            raise Refused(f"{self.what}: needs user (the SecretId)")
        self._secret = needed(firewall, base)
        self._firewall = firewall
        self._ca = str(base / firewall.tls_ca_file) if firewall.tls_ca_file else None
        self._comment = f"plughole {firewall.list}"[:200]
        self._clients: dict[str, Any] = {}
        self._rules: dict[str, list[_Rule]] = {}  # every rule there is, by address

    def prepare(self) -> None:
        """The SDK is there and the key may list the rules."""
        self._list()

    def audited(self, *, since: float) -> list[Audited]:
        """Return what CloudAudit knows of rules made or deleted since then, newest first; it lags some minutes."""
        events: list[Audited] = []
        for name in ("CreateBlockIgnoreRuleNew", "DeleteBlockIgnoreRuleNew"):
            attribute = {"AttributeKey": "EventName", "AttributeValue": name}
            found = self._call(
                "cloudaudit", "LookUpEvents", StartTime=int(since), EndTime=math.ceil(self._clock()),
                MaxResults=MAX_EVENTS, LookupAttributes=[attribute],
            )  # fmt: skip
            events += [
                Audited(each.event_id, name, each.username, each.event_time, each.source_ip)
                for each in (found.events or ())[:MAX_EVENTS]
            ]
        return sorted(events, key=lambda event: event.at, reverse=True)

    def _held(self) -> list[Standing]:
        self._list()
        now = self._clock()
        return [
            Standing(Target(host), max(0.0, _ends(rule.end_time or "") - now), rule.match_times or 0)
            for host, rules in self._rules.items()
            for rule in rules
            if self._ours(rule)
        ]

    def _list(self) -> None:
        rules: dict[str, list[_Rule]] = {}
        for rule in self._pages():
            rules.setdefault(host_of(rule.ioc), []).append(rule)
        rules.pop("", None)
        self._rules = rules

    def _pages(self) -> Iterator[_Rule]:
        for offset in range(0, MAX_RULES, PIECE):
            page = self._read(
                "DescribeBlockIgnoreList", Limit=PIECE, Offset=offset, Direction="", Order="desc", By="EndTime",
                ShowType="blocklist", SearchValue="{}", RuleType=_BAN,
            )  # fmt: skip
            if page.return_code or page.data is None:
                raise Refused(f"{self.what}: the list can not be read: {self._shown(page.return_msg or 'no data')}")
            yield from page.data
            if len(page.data) < PIECE:
                return
        raise Refused(f"{self.what}: more than {MAX_RULES} rules")

    def _ours(self, rule: _Rule) -> bool:
        return rule.comment == self._comment and rule.rule_type == _BAN

    def _put(self, fresh: Sequence[Lease], again: Sequence[Lease]) -> list[Failure]:
        """A rule of somebody else is left alone; where it bans the address outbound already all is as wished."""
        self._list()
        failures, mine = [], []
        for lease in (*fresh, *again):
            others = [rule for rule in self._rules.get(lease.target.address, ()) if not self._ours(rule)]
            if not others:
                mine.append(lease)
            elif not any(_OUT in (rule.direction_list or "").split(",") for rule in others):
                failures.append(
                    Failure(lease.target, "somebody else has an inbound rule for it, which ours would change")
                )
        return failures + self.put_in_pieces(mine, PIECE, self._create)

    def _take(self, targets: Sequence[Target]) -> list[Failure]:
        self._list()
        mine = {
            target: rule
            for target in targets
            for rule in self._rules.get(target.address, ())
            if self._ours(rule)
        }  # fmt: skip
        return self.take_in_pieces(list(mine), PIECE, lambda piece: self._delete([mine[target] for target in piece]))

    def _create(self, leases: Sequence[Lease]) -> None:
        now = self._clock()
        rules = [
            {"Ioc": each.target.address, "DirectionList": _OUT, "EndTime": _beijing(now + each.seconds),
             "Comment": self._comment} for each in leases
        ]  # fmt: skip
        self._call("cfw", "CreateBlockIgnoreRuleNew", RuleType=_BAN, CoverDuplicate=0, Rules=rules)

    def _delete(self, rules: Sequence[_Rule]) -> None:
        gone = [{"Ioc": rule.ioc, "RuleType": _BAN, "DirectionList": rule.direction_list} for rule in rules]
        self._call("cfw", "DeleteBlockIgnoreRuleNew", DeleteAll=0, ShowType="blocklist", Rules=gone)

    def _read(self, action: str, **fields: Any) -> _Response:
        try:
            return self._call("cfw", action, **fields)
        except Rejected as error:
            raise Refused(f"{self.what}: {error}") from None

    def _call(self, product: str, action: str, **fields: Any) -> _Response:
        """Return the answer; `Rejected` when the targets are to blame, `Refused` for all else."""
        client = self._client(product)
        from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException

        try:
            body = client.call(action, fields)
        except TencentCloudSDKException as error:
            raise self._fault(str(error.get_code()), str(error.get_message())) from None
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise Refused(f"{self.what}: the answer is not Tencent Cloud's ({type(error).__name__})") from None
        try:  # read here: the SDK looks for an error only under one content type, and takes all else for success
            answer = msgspec.json.decode(body, type=_Reply).response
        except UNREADABLE:
            raise Refused(f"{self.what}: the answer is not Tencent Cloud's") from None
        if answer.error is not None:
            raise self._fault(answer.error.code, answer.error.message)
        return answer

    def _fault(self, code: str, message: str) -> Refused | Rejected:
        words = self._shown(f"{code}: {message}")
        if code.startswith("RequestLimitExceeded"):
            return Refused(f"{self.what}: too many requests for it")
        if code.startswith(("AuthFailure", "UnauthorizedOperation")):
            return Refused(f"{self.what}: does not accept our key: {words}")
        if code.startswith(_BLAMES_TARGET):
            return Rejected(words, full=code.startswith("LimitExceeded"))
        return Refused(f"{self.what}: {words}")

    def _client(self, product: str) -> Any:
        if product not in self._clients:
            self._clients[product] = self._connected(product)
        return self._clients[product]

    def _connected(self, product: str) -> Any:
        try:
            from tencentcloud.common.common_client import CommonClient
            from tencentcloud.common.credential import Credential
            from tencentcloud.common.profile.client_profile import ClientProfile
            from tencentcloud.common.profile.http_profile import HttpProfile
            from tencentcloud.common.retry import StandardRetryer
        except ImportError:
            raise Refused(f'{self.what}: the SDK is missing: pip install "plughole[tencent]"') from None
        parts = urlsplit(self._firewall.url)
        http = HttpProfile(
            protocol=parts.scheme or "https", endpoint=parts.netloc or _ENDPOINTS[product], reqTimeout=TIMEOUT
        )
        http.certification = self._ca
        profile = ClientProfile(httpProfile=http, retryer=StandardRetryer(max_attempts=2, backoff_fn=lambda _: RETRY))
        key = Credential(self._firewall.user, self._secret.reveal())
        return CommonClient(product, _VERSIONS[product], key, REGION, profile)

    def _shown(self, text: str) -> str:
        plain = "".join(each if each.isprintable() else " " for each in self._secret.hidden_in(text[:2_000]))
        return " ".join(plain.split())[:200]


def _beijing(at: float) -> str:
    """Return a Unix time, rounded up, as Beijing's clocks show it."""
    return dt.datetime.fromtimestamp(math.ceil(at), BEIJING).strftime(_STAMP)


def _ends(text: str) -> float:
    """Return the Unix time of Beijing's clocks, infinity for "forever" and for what is no time."""
    if text == FOREVER:
        return math.inf
    try:
        return dt.datetime.strptime(text, _STAMP).replace(tzinfo=BEIJING).timestamp()
    except (ValueError, TypeError):
        return math.inf
