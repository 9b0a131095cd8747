"""One table of ours in nftables: what is said to it over netlink, what it holds, and whether it is whole.

Layouts: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from typing import TYPE_CHECKING, Final

from egress import netlink
from egress.enforcer import Absent, Refused
from egress.nftables_elements import IN_TABLE, INET, string

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DELTABLE: Final = 2
_GETRULE: Final = 7
_GETSETELEM: Final = 13
_RULE_CHAIN: Final = 2


class Table:
    """A table in the network namespace this is made in. Needs CAP_NET_ADMIN; one thread uses it at a time.

    Every method raises `Refused` when the kernel says no, `Absent` when the table or a part of it is gone.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._kernel = netlink.Netfilter()

    @property
    def limit(self) -> int:
        """How many octets the requests of one transaction may have together."""
        return self._kernel.limit

    def transact(self, requests: Sequence[netlink.Request]) -> list[netlink.Refusal]:
        """All requests are done, or none is and what the kernel refused is returned."""
        try:
            return self._kernel.transaction(requests)
        except netlink.Malformed as fault:
            raise Refused(f"nftables: {fault}") from fault
        except OSError as fault:
            raise Refused(f"nftables: {fault.strerror or fault}") from fault

    def commit(self, requests: Sequence[netlink.Request]) -> None:
        """All requests are done."""
        for refusal in self.transact(requests):
            raise self.refused(refusal.errno)

    def pieces(self, of_set: bytes) -> list[bytes]:
        """Return the messages of a set's listing; `of_set` names it as in a request."""
        return self._listing(_GETSETELEM, of_set)

    def check(self, chains: Mapping[str, int]) -> None:
        """Raise `Absent` unless each chain has so many rules, and there is no other."""
        found: Counter[str] = Counter()
        for rule in self._listing(_GETRULE, netlink.text(IN_TABLE, self._name)):
            parts = dict(netlink.attributes(rule))
            if string(parts.get(IN_TABLE)) == self._name:
                found[string(parts.get(_RULE_CHAIN))] += 1
        if found != chains:
            has = dict(found) or "none"
            raise Absent(f"table inet {self._name} has lost rules: {has} where {dict(chains)} belong")

    def delete(self) -> None:
        """The table is gone with all that is in it, or was not there."""
        try:
            self.commit([netlink.Request(_DELTABLE, 0, INET, netlink.text(IN_TABLE, self._name))])
        except Absent:
            return

    def close(self) -> None:
        """Close the socket; what the table holds stays until it runs out."""
        self._kernel.close()

    def refused(self, number: int) -> Refused:
        """Return what an errno of the kernel means for the table."""
        if number == errno.ENOENT:
            return Absent(f"table inet {self._name} or a set of it is gone")
        return Refused(f"nftables: {os.strerror(number)}")

    def _listing(self, kind: int, payload: bytes) -> list[bytes]:
        try:
            return self._kernel.listing(kind, INET, payload)
        except netlink.Malformed as fault:
            raise Refused(f"nftables: {fault}") from fault
        except OSError as fault:
            raise self.refused(fault.errno or 0) from fault
