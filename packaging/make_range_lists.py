"""Makes the snapshot in `egress/lists/` from a checkout of misp-warninglists.

    python packaging/make_range_lists.py CHECKOUT DATE SOURCE [FOLDER]

CHECKOUT holds `lists/NAME/list.json` (or `NAME/list.json`), DATE is that of its last change, YYYY-MM-DD, SOURCE says
what it is, "misp-warninglists 84f0610" for one. Without FOLDER the snapshot that ships is replaced; with it a newer one
is made for a data folder (`egress/ranges/` there). A list that is missing or empty is left out and told.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.errors import BadFeed
from egress.range_lists import KINDS, file_name, pack
from egress.ranges import Listed, read

SHIPPED = Path(__file__).resolve().parents[1] / "egress" / "lists"


def lists(checkout: Path, names: dict[str, str]) -> list[Listed]:
    """Return the lists of a kind that are there, under the words used of them; what is wrong goes to stderr."""
    found = []
    for name, words in names.items():
        path = next((each for each in (checkout / "lists" / name, checkout / name) if each.is_dir()), checkout)
        try:
            one = read((path / "list.json").read_bytes(), name=name)
        except (OSError, BadFeed) as fault:
            sys.stderr.write(f"left out: {fault}\n")
            continue
        sys.stderr.writelines(f"{mistake}\n" for mistake in one.mistakes)
        found.append(Listed(words, one.prefixes))
    return found


def main() -> None:
    """Write one file a kind and say how long each is."""
    checkout, date, source, *folder = sys.argv[1:]
    to = Path(folder[0]) if folder else SHIPPED
    to.mkdir(parents=True, exist_ok=True)
    for kind, names in KINDS.items():
        octets = pack(kind, lists(Path(checkout), dict(names)), date=date, source=source)
        (to / file_name(kind)).write_bytes(octets)
        sys.stdout.write(f"{to / file_name(kind)}: {len(octets)} octets\n")


if __name__ == "__main__":
    main()
