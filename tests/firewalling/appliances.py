"""Stand-ins of firewalls in a rack, from their makers' documents: they check keys, shapes and addresses as those do."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import itertools
import re
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar
from xml.etree import ElementTree as ET

from firewalling.standin import Answer, Asked, Firewall, Wrong

from egress.enforcer import Target


def _basic(asked: Asked, user: str, secret: str) -> None:
    wanted = base64.b64encode(f"{user}:{secret}".encode()).decode()
    if asked.headers.get("authorization") != f"Basic {wanted}":
        raise Wrong(401, "who are you?")


def _address(text: str) -> str:
    if str(ipaddress.ip_address(text)) != text:
        raise Wrong(400, f"{text} is no address")
    return text


@dataclass
class FortigateStandin(Firewall):
    kind: ClassVar[str] = "fortigate"
    entries: list[str] = field(default_factory=lambda: ["10.0.0.0/8"])  # a network there is no block of ours
    update_method: str = "push"

    def truth(self) -> dict[Target, float | None]:
        return {Target(each): None for each in self.entries if "/" not in each}

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != f"Bearer {self.secret}":
            raise Wrong(401, "no token")
        match asked.method, asked.path:
            case "GET", "/api/v2/cmdb/system/external-resource/plughole":
                return 200, {"results": [{"name": "plughole", "type": "address", "update-method": self.update_method}]}
            case "GET", "/api/v2/monitor/system/external-resource/entry-list":
                if asked.params != {"mkey": "plughole", "count": "0"}:
                    raise Wrong(400, f"{asked.params}")
                entries = [{"entry": each, "valid": True} for each in self.entries]
                return 200, {"http_method": "GET", "results": {"status": "success", "entries": entries}}
            case "POST", "/api/v2/monitor/system/external-resource/dynamic":
                return self._told(asked.json("commands")["commands"])
        raise Wrong(404, "no such path")

    def _told(self, commands: list[dict[str, Any]]) -> Answer:
        for command in commands:
            if sorted(command) != ["command", "entries", "name"] or command["name"] != "plughole":
                raise Wrong(400, f"{command}")
            entries = [_address(each) for each in command["entries"]]
            if self.turned_away & set(entries):
                return 400, {"status": "error"}
            if command["command"] == "add":
                self.entries += [each for each in entries if each not in self.entries]
            elif command["command"] == "remove":
                self.entries = [each for each in self.entries if each not in entries]
            else:
                raise Wrong(400, "a snapshot would replace what others pushed")
        return 200, {"status": "success", "http_status": 200}


@dataclass
class PanosStandin(Firewall):
    kind: ClassVar[str] = "panos"
    tags: dict[str, dict[str, float]] = field(default_factory=lambda: {"198.51.100.7": {"printers": 9e9}})

    def truth(self) -> dict[Target, float | None]:
        return {
            Target(ip): ends["plughole"] - time.time()
            for ip, ends in self.tags.items()
            if ends.get("plughole", 0.0) > time.time()
        }

    def add_foreign(self, address: str) -> None:
        self.tags.setdefault(address, {})["printers"] = 9e9

    def foreign(self) -> set[str]:
        return {ip for ip, ends in self.tags.items() if "printers" in ends}

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("x-pan-key") != self.secret or self.secret in asked.path + str(asked.params):
            self.complaints.append("key")
            return 403, b'<response status="error" code="403"><result><msg>Invalid Credential</msg></result></response>'
        if (asked.method, asked.path) != ("POST", "/api/"):
            raise Wrong(404, "no such path")
        form = asked.form("type", "cmd")
        command = ET.fromstring(form["cmd"])
        return 200, self._listed(command) if form["type"] == "op" else self._told(command)

    def _listed(self, command: ET.Element) -> bytes:
        registered = command.find("./object/registered-ip")
        if command.tag != "show" or registered is None:
            raise Wrong(400, "what?")
        limit, start = int(registered.findtext("limit", "")), int(registered.findtext("start-point", ""))
        tag = registered.find("./tag/entry")
        wanted = "" if tag is None else tag.get("name", "")
        now = time.time()
        found = [(ip, ends) for ip, ends in sorted(self.tags.items()) if ends.get(wanted, 0.0) > now]
        entries = "".join(
            f'<entry ip="{ip}" from_agent="0" persistent="0"><tag>'
            + "".join(f"<member>{each}</member>" for each in ends)
            + "</tag></entry>"
            for ip, ends in found[start - 1 : start - 1 + limit]
        )
        return f'<response status="success"><result>{entries}<count>{len(found)}</count></result></response>'.encode()

    def _told(self, message: ET.Element) -> bytes:
        if message.tag != "uid-message" or message.findtext("type") != "update":
            raise Wrong(400, "what?")
        troubles = ""
        for verb in ("register", "unregister"):
            for entry in message.iterfind(f"./payload/{verb}/entry"):
                ip = _address(entry.get("ip", ""))
                member = entry.find("./tag/member")
                assert member is not None
                assert member.text
                if why := self._one(verb, ip, member.text, member.get("timeout")):
                    troubles += f'<{verb}><entry ip="{ip}" message="{why}"/></{verb}>'
        if not troubles:
            return b'<response status="success"><result><uid-response/></result></response>'
        return (f'<response status="error"><msg><line><uid-response><version>2.0</version><payload>{troubles}'
                "</payload></uid-response></line></msg></response>").encode()  # fmt: skip

    def _one(self, verb: str, ip: str, tag: str, timeout: str | None) -> str:
        ends = self.tags.setdefault(ip, {})
        if verb == "unregister":
            return "" if ends.pop(tag, 0.0) else f"tag {tag} does not exist, ignore unreg"
        if ip in self.turned_away:
            return "the table of addresses is full"
        if ends.get(tag, 0.0) > time.time():
            return f"tag {tag} already exists, ignore"
        if not 0 < int(timeout or 0) <= 2_592_000:
            self.complaints.append(f"a tag without end for {ip}")
        ends[tag] = time.time() + int(timeout or 0)
        return ""


@dataclass
class OpnsenseStandin(Firewall):
    kind: ClassVar[str] = "opnsense"
    user: ClassVar[str] = "key-of-the-api"
    entries: set[str] = field(default_factory=set)
    old: bool = False  # answers as versions before 22.1

    def truth(self) -> dict[Target, float | None]:
        return {Target(each): None for each in self.entries}

    def answer(self, asked: Asked) -> Answer:
        _basic(asked, self.user, self.secret)
        match asked.method, asked.path:
            case "GET", "/api/firewall/alias/getAliasUUID/plughole":
                return 200, {"uuid": "6f0c0d2c-3d52-4b9c-a0e7-7d7ccf9a33d5"}
            case "GET", "/api/firewall/alias_util/list/plughole":
                if self.old:
                    return 200, sorted(self.entries)
                rows = [{"ip": each} for each in sorted(self.entries)]
                return 200, {"total": len(rows), "rowCount": len(rows), "current": 1, "rows": rows}
            case "POST", "/api/firewall/alias_util/add/plughole":
                return 200, {"status": self._add(asked.json("address")["address"])}
            case "POST", "/api/firewall/alias_util/delete/plughole":
                self.entries.discard(asked.json("address")["address"])
                return 200, {"status": "done"}
        raise Wrong(404, "no such path")

    def _add(self, address: str) -> str:
        if re.search(r"[^0-9a-f:./_]", address) or address in self.turned_away:
            return "not_an_address"
        self.entries.add(_address(address))
        return "done"


@dataclass
class MikrotikStandin(Firewall):
    kind: ClassVar[str] = "mikrotik"
    user: ClassVar[str] = "agent"
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def truth(self) -> dict[Target, float | None]:
        now = time.time()
        return {
            Target(row["address"].partition("/")[0]): row["ends"] - now
            for row in self.rows.values()
            if row["comment"] == "plughole"
        }

    def add_foreign(self, address: str) -> None:
        self._put(4, {"list": "plughole", "address": address, "comment": "by hand", "timeout": "9000s"})

    def foreign(self) -> set[str]:
        return {row["address"] for row in self.rows.values() if row["comment"] != "plughole"}

    def answer(self, asked: Asked) -> Answer:
        _basic(asked, self.user, self.secret)
        found = re.fullmatch(r"/rest/(ip|ipv6)/firewall/address-list(?:/(\*[0-9A-F]+))?", asked.path)
        if not found:
            raise Wrong(404, "no such path")
        version, number = (4 if found[1] == "ip" else 6), found[2]
        match asked.method:
            case "GET":
                return 200, self._listed(version, asked.params)
            case "PUT":
                return self._put(version, asked.json("list", "address", "timeout", "comment"))
            case "PATCH" | "DELETE" if self.rows.get(number, {}).get("version") != version:
                return 404, {"error": 404, "message": "Not Found", "detail": "no such item"}
            case "PATCH":
                self.rows[number]["ends"] = self._ends(asked.json("timeout")["timeout"])
                return 200, self._shown(number)
            case "DELETE":
                del self.rows[number]
                return 204, b""
        raise Wrong(405, asked.method)

    def _listed(self, version: int, params: Any) -> list[dict[str, str]]:
        if not params.get("list"):
            raise Wrong(400, "lists everything")
        return [
            self._shown(number)
            for number, row in self.rows.items()
            if row["version"] == version and row["list"] == params["list"]
            and row["comment"] == params.get("comment", row["comment"])
        ]  # fmt: skip

    def _shown(self, number: str) -> dict[str, str]:
        row = self.rows[number]
        left = max(0, int(row["ends"] - time.time()))
        address = row["address"] + ("/128" if row["version"] == 6 else "")
        hours, minutes, seconds = left // 3_600, left // 60 % 60, left % 60
        timeout = f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"
        return {".id": number, "address": address, "list": row["list"], "timeout": timeout, "comment": row["comment"],
                "dynamic": "true"}  # fmt: skip

    def _put(self, version: int, entry: dict[str, str]) -> Answer:
        address = _address(entry["address"])
        if ipaddress.ip_address(address).version != version:
            raise Wrong(400, "wrong menu")
        if address in self.turned_away:
            return 400, {"error": 400, "message": "Bad Request", "detail": "failure: not possible"}
        if any(row["address"] == address and row["list"] == entry["list"] for row in self.rows.values()):
            return 400, {"error": 400, "message": "Bad Request", "detail": "failure: already have such entry"}
        number = f"*{next(self.numbers):X}"
        self.rows[number] = {**entry, "version": version, "ends": self._ends(entry["timeout"])}
        return 201, self._shown(number)

    def _ends(self, timeout: str) -> float:
        found = re.fullmatch(r"(\d+)s", timeout)
        if not found or not int(found[1]):
            raise Wrong(400, f"timeout {timeout}")
        return time.time() + int(found[1])


@dataclass
class WebhookStandin(Firewall):
    kind: ClassVar[str] = "webhook"
    blocked: dict[Target, float] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)

    def truth(self) -> dict[Target, float | None]:
        return {target: ends - time.time() for target, ends in self.blocked.items()}

    def answer(self, asked: Asked) -> Answer:
        at = asked.headers.get("x-plughole-timestamp", "")
        signed = hmac.new(self.secret.encode(), at.encode() + b"." + asked.body, hashlib.sha256).hexdigest()
        if asked.headers.get("x-plughole-signature") != f"sha256={signed}" or abs(time.time() - int(at)) > 60:
            raise Wrong(401, "signature")
        told = asked.json("id", "at", "list", "block", "release")
        if told["id"] in self.requests or told["list"] != "plughole" or told["at"] != int(at):
            raise Wrong(400, "seen before, or not ours")
        self.requests.add(told["id"])
        failures = []
        for each in told["block"]:
            target = Target(_address(each["address"]), each["client"])
            if target.address in self.turned_away:
                failures.append({"address": target.address, "client": target.client, "reason": "a printer of ours"})
            else:
                self.blocked[target] = time.time() + each["seconds"]
        for each in told["release"]:
            self.blocked.pop(Target(each["address"], each["client"]), None)
        return 200, {"failures": failures} if failures else b"thank you"
