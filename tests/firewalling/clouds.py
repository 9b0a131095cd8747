"""Stand-ins of CrowdSec's Local API and of Tencent Cloud: keys, signatures and shapes are checked."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import ipaddress
import itertools
import re
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
from firewalling.standin import Answer, Asked, Firewall, Wrong

from egress.enforcer import Target

BEIJING = dt.timezone(dt.timedelta(hours=8))


@dataclass
class CrowdsecStandin(Firewall):
    kind: ClassVar[str] = "crowdsec"
    user: ClassVar[str] = "agent"
    secret: ClassVar[str] = "s3cr3t-of-the-machine\nk3y-of-the-bouncer"
    decisions: dict[int, dict[str, Any]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def truth(self) -> dict[Target, float | None]:
        now = time.time()
        ours = [each for each in self.decisions.values() if each["origin"] == "plughole" and each["ends"] > now]
        assert len({each["value"] for each in ours}) == len(ours), "more than one decision of ours for an address"
        return {Target(each["value"]): each["ends"] - now for each in ours}

    def add_foreign(self, address: str) -> None:
        self.decisions[next(self.numbers)] = {
            "value": address, "origin": "CAPI", "scenario": "crowdsecurity/ssh-bf", "scope": "Ip", "type": "ban",
            "ends": time.time() + 9e6,
        }  # fmt: skip

    def foreign(self) -> set[str]:
        return {each["value"] for each in self.decisions.values() if each["origin"] != "plughole"}

    def answer(self, asked: Asked) -> Answer:
        password, key = self.secret.split("\n")
        if (asked.method, asked.path) == ("POST", "/v1/watchers/login"):
            if not re.fullmatch(r"[^/ ]+/[^/ ]+", asked.headers.get("user-agent", "")):
                return 401, {"code": 401, "message": "bad user agent"}
            who = asked.json("machine_id", "password", "scenarios")
            if (who["machine_id"], who["password"]) != (self.user, password):
                return 403, {"code": 403, "message": "incorrect Username or Password"}
            return 200, {"code": 200, "expire": "2099-01-01T00:00:00Z", "token": "t0ken"}
        if (asked.method, asked.path) == ("GET", "/v1/decisions/stream"):
            if asked.headers.get("x-api-key") != key:
                return 403, {"message": "access forbidden"}
            return 200, {"new": self._stream(asked.params.get("origins")) or None, "deleted": None}
        if asked.headers.get("authorization") != "Bearer t0ken":
            return 401, {"code": 401, "message": "cookie token is empty"}
        if (asked.method, asked.path) == ("POST", "/v1/alerts"):
            return 201, [self._alert(each) for each in msgspec.json.decode(asked.body, type=list[dict[str, Any]])]
        if asked.method == "DELETE" and (found := re.fullmatch(r"/v1/decisions/(\d+)", asked.path)):
            gone = self.decisions.pop(int(found[1]), None)
            return (200, {"nbDeleted": "1"}) if gone else (404, {"message": "decision not found"})
        raise Wrong(404, "no such path")

    def _stream(self, origins: str | None) -> list[dict[str, Any]]:
        now = time.time()
        return [
            {"id": number, "duration": f"{int((each['ends'] - now) // 60)}m{(each['ends'] - now) % 60:.6f}s",
             **{key: each[key] for key in ("value", "origin", "scenario", "scope", "type")}}
            for number, each in self.decisions.items()
            if each["ends"] > now and origins in (None, each["origin"])
        ]  # fmt: skip

    def _alert(self, alert: dict[str, Any]) -> str:
        for key in ("scenario_hash", "message", "start_at", "stop_at", "capacity", "leakspeed", "simulated", "events"):
            alert[key]
        for each in alert["decisions"]:
            address = str(ipaddress.ip_address(each["value"]))
            if alert["source"] != {"scope": "Ip", "value": address}:
                raise Wrong(422, "source")
            if address in self.turned_away:
                raise Refusing
            seconds = re.fullmatch(r"(\d+)s", each["duration"])
            if not seconds:
                raise Wrong(422, "duration")
            kept = {key: each[key] for key in ("value", "origin", "scenario", "scope", "type")}
            self.decisions[next(self.numbers)] = {**kept, "ends": time.time() + int(seconds[1])}
        return "1"

    def replied(self, asked: Asked) -> tuple[int, bytes]:
        before = dict(self.decisions)
        try:
            return super().replied(asked)
        except Refusing:
            self.decisions = before
            return 400, b'{"message":"validation failure"}'


class Refusing(Exception):
    """A request with an address it turns away is refused whole."""


@dataclass
class TencentStandin(Firewall):
    """Recomputes TC3-HMAC-SHA256 over what arrived, and never lets a whole list be deleted."""

    kind: ClassVar[str] = "tencent"
    user: ClassVar[str] = "AKIDexample"
    rules: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    limited: bool = False
    room: int = 1_000

    def truth(self) -> dict[Target, float | None]:
        now = dt.datetime.now(BEIJING)
        found: dict[Target, float | None] = {}
        for rule in self.rules.values():
            if rule["Comment"] == "plughole plughole":
                assert rule["DirectionList"] == "0"
                ends = dt.datetime.strptime(rule["EndTime"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)
                found[Target(rule["Ioc"])] = (ends - now).total_seconds()
        return found

    def add_foreign(self, address: str) -> None:
        self.rules[address, 1] = {"Ioc": address, "RuleType": 1, "DirectionList": "1,0", "Comment": "by hand",
                                  "EndTime": "3000-01-01 00:00:00", "MatchTimes": 0}  # fmt: skip

    def foreign(self) -> set[str]:
        return {rule["Ioc"] for rule in self.rules.values() if rule["Comment"] == "by hand"}

    def answer(self, asked: Asked) -> Answer:
        found = re.fullmatch(
            r"TC3-HMAC-SHA256 Credential=([^/]+)/([\d-]+)/(\w+)/tc3_request, SignedHeaders=([\w;-]+), "
            r"Signature=([0-9a-f]{64})",
            asked.headers.get("authorization", ""),
        )
        if not found:
            return self._error("AuthFailure.InvalidAuthorization", "no signature")
        key, date, service, names, signature = found.groups()
        if key != self.user or signature != self._signature(asked, date, service, names):
            return self._error("AuthFailure.SignatureFailure", "The provided credentials could not be validated.")
        if self.limited:
            return self._error("RequestLimitExceeded", "slowly")
        action = asked.headers["x-tc-action"]
        fields = msgspec.json.decode(asked.body, type=dict[str, Any])
        handler = {
            "CreateBlockIgnoreRuleNew": self._create, "DeleteBlockIgnoreRuleNew": self._delete,
            "DescribeBlockIgnoreList": self._describe, "LookUpEvents": self._look_up,
        }[action]  # fmt: skip
        return handler(fields)

    def _signature(self, asked: Asked, date: str, service: str, names: str) -> str:
        headers = "".join(f"{name}:{asked.headers[name].strip().lower()}\n" for name in names.split(";"))
        canonical = "\n".join((asked.method, asked.path, "", headers, names, hashlib.sha256(asked.body).hexdigest()))
        stamp = asked.headers["x-tc-timestamp"]
        if abs(int(stamp) - time.time()) > 300:
            raise Wrong(400, "clock")
        text = "\n".join(("TC3-HMAC-SHA256", stamp, f"{date}/{service}/tc3_request",
                          hashlib.sha256(canonical.encode()).hexdigest()))  # fmt: skip
        key = f"TC3{self.secret}".encode()
        for part in (date, service, "tc3_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def _error(self, code: str, message: str) -> Answer:
        return 200, {"Response": {"Error": {"Code": code, "Message": message}, "RequestId": "r"}}

    def _done(self, **fields: Any) -> Answer:
        return 200, {"Response": {**fields, "RequestId": "r"}}

    def _create(self, fields: dict[str, Any]) -> Answer:
        if (
            sorted(fields) != ["CoverDuplicate", "RuleType", "Rules"]
            or fields["CoverDuplicate"]
            or fields["RuleType"] != 1
        ):
            raise Wrong(400, f"{fields}")
        if len(self.rules) + len(fields["Rules"]) > self.room:
            return self._error("LimitExceeded.RuleLimit", "too many rules")
        for rule in fields["Rules"]:
            if sorted(rule) != ["Comment", "DirectionList", "EndTime", "Ioc"] or len(rule["Comment"]) > 200:
                raise Wrong(400, f"{rule}")
            ipaddress.ip_address(rule["Ioc"])
            ends = dt.datetime.strptime(rule["EndTime"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)
            if rule["Ioc"] in self.turned_away:
                return self._error("InvalidParameterValue", f"{rule['Ioc']} is an asset of yours")
            if ends < dt.datetime.now(BEIJING):
                raise Wrong(400, "over already: not Beijing's time?")
        for rule in fields["Rules"]:
            self.rules[rule["Ioc"], 1] = {**rule, "RuleType": 1, "MatchTimes": 3}
        self._log("CreateBlockIgnoreRuleNew")
        return self._done()

    def _delete(self, fields: dict[str, Any]) -> Answer:
        if sorted(fields) != ["DeleteAll", "Rules", "ShowType"] or fields["DeleteAll"] != 0:
            raise Wrong(400, "deletes everything")
        for rule in fields["Rules"]:
            there = self.rules.get((rule["Ioc"], rule["RuleType"]))
            if there is None or there["DirectionList"] != rule["DirectionList"]:
                return self._error("InvalidParameter", "no such rule")
        for rule in fields["Rules"]:
            del self.rules[rule["Ioc"], rule["RuleType"]]
        self._log("DeleteBlockIgnoreRuleNew")
        return self._done()

    def _describe(self, fields: dict[str, Any]) -> Answer:
        if fields.pop("Limit") > 100 or fields["ShowType"] != "blocklist" or fields["RuleType"] != 1:
            raise Wrong(400, f"{fields}")
        offset = fields["Offset"]
        rules = list(self.rules.values())
        return self._done(Data=rules[offset : offset + 100], Total=len(rules), ReturnCode=0, ReturnMsg="success")

    def _look_up(self, fields: dict[str, Any]) -> Answer:
        wanted = fields["LookupAttributes"][0]
        if wanted["AttributeKey"] != "EventName" or fields["StartTime"] > fields["EndTime"]:
            raise Wrong(400, f"{fields}")
        return self._done(Events=[each for each in self.events if each["EventName"] == wanted["AttributeValue"]],
                          ListOver=True)  # fmt: skip

    def _log(self, name: str) -> None:
        self.events.append({"EventId": f"e{len(self.events)}", "EventName": name, "Username": "agent",
                            "EventTime": str(int(time.time())), "SourceIPAddress": "192.0.2.9"})  # fmt: skip
