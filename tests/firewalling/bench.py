"""One firewall of each kind to try an enforcer on: what it truly holds, and how to make it misbehave."""

from __future__ import annotations

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from firewalling.standin import Firewall as Standin
from firewalling.standin import Running

from core.config import Firewall
from egress.enforcer import Enforcer, Target
from egress.firewalls import build
from egress.firewalls.edl import NOBODY

if TYPE_CHECKING:
    from pathlib import Path

NAME = "branch"


class Bench(ABC):
    """What the contract is tried on. `secret`: what must never show."""

    kind: ClassVar[str]
    pairs = False
    tells_end = True  # `truth` says how long a block lasts yet
    secret = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Enforcer] = []

    @abstractmethod
    def firewall(self, **changes: Any) -> Firewall:
        """Return the configuration that leads there."""

    def build(self, **changes: Any) -> Enforcer:
        self.close()
        self.made.append(build(self.firewall(**changes), self.folder, self.folder / "data"))
        return self.made[-1]

    @abstractmethod
    def truth(self) -> dict[Target, float | None]:
        """Return what it holds of ours, and for how long yet where it tells."""

    def close(self) -> None:
        while self.made:
            self.made.pop().close()

    def keep_secret(self, text: str) -> str:
        """Write the secret down; returns the file's name."""
        (self.folder / "secret").write_text(f"{text}\n")
        (self.folder / "secret").chmod(0o600)
        return "secret"


class WebBench(Bench):
    """A stand-in behind a web service."""

    def __init__(self, folder: Path, standin: Standin) -> None:
        super().__init__(folder)
        self.standin = standin
        self.secret = standin.secret
        self.running = Running(standin)

    def firewall(self, **changes: Any) -> Firewall:
        keys: dict[str, Any] = {
            "name": NAME, "kind": self.standin.kind, "url": self.running.url, "user": self.standin.user,
            "list": self.standin.holds, "secret_file": self.keep_secret(self.standin.secret),
        }  # fmt: skip
        return Firewall(**{**keys, **changes})

    def truth(self) -> dict[Target, float | None]:
        return self.standin.truth()

    def stop(self) -> None:
        self.close()
        self.running.stop()


class EdlBench(Bench):
    """Fetches what a firewall would fetch."""

    kind = "edl"
    tells_end = False
    secret = "s3cr3t-of-the-list"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]

    def firewall(self, **changes: Any) -> Firewall:
        keys: dict[str, Any] = {"name": NAME, "kind": "edl", "listen": f"127.0.0.1:{self.port}", "user": "fw",
                                "secret_file": self.keep_secret(self.secret)}  # fmt: skip
        return Firewall(**{**keys, **changes})

    def get(self, path: str, *, login: bool = True, **headers: str) -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if login:
            request.add_header("authorization", "Basic " + base64.b64encode(f"fw:{self.secret}".encode()).decode())
        for key, value in headers.items():
            request.add_header(key.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:
                return reply.status, {key.lower(): value for key, value in reply.headers.items()}, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {key.lower(): value for key, value in error.headers.items()}, error.read()

    def truth(self) -> dict[Target, float | None]:
        found: dict[Target, float | None] = {}
        for version, nobody in NOBODY.items():
            status, _, body = self.get(f"/plughole-v{version}.txt")
            assert status == 200
            lines = body.decode().splitlines()
            assert lines
            found |= {Target(line): None for line in lines if line != nobody}
        return found


class IpsetBench(Bench):
    """The real program in a namespace of its own, found first on PATH."""

    kind = "ipset"

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.space = f"ph{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", self.space], check=True)
        self.program = shutil.which("ipset")
        wrapper = folder / "bin" / "ipset"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec ip netns exec {self.space} {self.program} "$@"\n')
        wrapper.chmod(0o755)
        tried = subprocess.run([wrapper, "create", "tried", "hash:net,net"], capture_output=True, check=False)
        self.pairs = tried.returncode == 0  # older and smaller kernels have no such type
        monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")

    @staticmethod
    def reason_to_skip() -> str:
        if os.geteuid():
            return "needs root"
        if not shutil.which("ipset") or not shutil.which("ip"):
            return "ipset or ip is missing (packages ipset, iproute2)"
        tried = subprocess.run(["unshare", "--net", "ipset", "list", "-n"], capture_output=True, check=False)
        return "" if tried.returncode == 0 else "no network namespace with ipset can be made here"

    def firewall(self, **changes: Any) -> Firewall:
        return Firewall(**{"name": NAME, "kind": "ipset", **changes})

    def run(self, *arguments: str) -> str:
        done = subprocess.run(["ipset", *arguments], capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout

    def truth(self) -> dict[Target, float | None]:
        found: dict[Target, float | None] = {}
        for end in ("4", "6", "4p", "6p"):
            with contextlib.suppress(AssertionError):
                for line in self.run("save", f"plughole{end}").splitlines():
                    words = line.split()
                    if words[0] == "add":
                        client, _, address = words[2].rpartition(",")
                        found[Target(address, client)] = float(words[words.index("timeout") + 1])
        return found

    def stop(self) -> None:
        self.close()
        subprocess.run(["ip", "netns", "delete", self.space], check=True)


class AwsBench(Bench):
    """Prefix lists in moto, which stands in for EC2 within this process."""

    kind = "aws"
    tells_end = False
    secret = "s3cr3t-of-the-account"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        import boto3
        import moto

        self._mock = moto.mock_aws()
        self._mock.start()
        key = {"aws_access_key_id": "AKIA", "aws_secret_access_key": self.secret}
        self.ec2 = boto3.client("ec2", region_name="eu-central-1", **key)
        self.lists = {
            family: self.ec2.create_managed_prefix_list(
                PrefixListName=f"plughole-{family}", MaxEntries=500, AddressFamily=family
            )["PrefixList"]["PrefixListId"]
            for family in ("IPv4", "IPv6")
        }
        self.add_foreign("198.51.100.7")

    def firewall(self, **changes: Any) -> Firewall:
        keys: dict[str, Any] = {
            "name": NAME, "kind": "aws", "list": f"eu-central-1/{','.join(self.lists.values())}", "user": "AKIA",
            "secret_file": self.keep_secret(self.secret),
        }  # fmt: skip
        return Firewall(**{**keys, **changes})

    def entries(self) -> list[dict[str, str]]:
        return [
            entry
            for number in self.lists.values()
            for entry in self.ec2.get_managed_prefix_list_entries(PrefixListId=number)["Entries"]
        ]

    def truth(self) -> dict[Target, float | None]:
        ours = [each["Cidr"].partition("/")[0] for each in self.entries() if each.get("Description") == "plughole"]
        assert len(ours) == len(set(ours))
        return {Target(each): None for each in ours}

    def add_foreign(self, address: str) -> None:
        number = self.lists["IPv4"]
        version = self.ec2.describe_managed_prefix_lists(PrefixListIds=[number])["PrefixLists"][0]["Version"]
        entry = {"Cidr": f"{address}/32", "Description": "by hand"}
        self.ec2.modify_managed_prefix_list(PrefixListId=number, CurrentVersion=version, AddEntries=[entry])

    def foreign(self) -> set[str]:
        return {each["Cidr"].partition("/")[0] for each in self.entries() if each.get("Description") == "by hand"}

    def stop(self) -> None:
        self.close()
        self.ec2.close()
        self._mock.stop()
