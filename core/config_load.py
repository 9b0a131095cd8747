"""From TOML and the environment to one `Config`, or to every mistake at once.

Rules:
1. A mistake is one line: `path: what is wrong; what to write`.
2. A wrong value does not hide the mistakes beside it: reading goes on with the value's default.
3. `PLUGHOLE_SECTION__KEY` in the environment beats the file; its value is TOML, or bare text where it is none.
4. Only `load` touches the disk, to read the file and to see that the files it names are there.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from msgspec import inspect

from core.config_read import SHAPE, TABLE_KEY, Mistakes, bare, keys_of, read_struct, shown
from core.config_rules import check_together
from core.errors import BadConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from core.config import Config

ENVIRONMENT_PREFIX: Final = "PLUGHOLE_"
LEVEL: Final = "__"  # between table and key in an environment variable
MAX_FILE: Final = 16_777_216  # octets; a configuration beyond 16 MiB is another file

_AT_LINE: Final = re.compile(
    r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL
)


def load(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of a file, or the defaults when `path` is None, with the environment on top.

    Relative paths in it start from the file's folder, or from the working folder. Raises BadConfig with every mistake.
    """
    base = (path.parent if path else Path()).absolute()
    found, mistakes = _read(_text(path) if path else "", environ, base)
    mistakes += _missing_files(found)
    if mistakes:
        raise BadConfig(mistakes)
    return found


def parse(text: str, environ: Mapping[str, str], base: Path) -> Config:
    """Return the configuration of `text` without touching the disk; raises BadConfig with every mistake."""
    found, mistakes = _read(text, environ, base)
    if mistakes:
        raise BadConfig(mistakes)
    return found


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadConfig([f"{path}: cannot be read ({error.strerror}); name a readable file with -c FILE"]) from error
    if len(raw) > MAX_FILE:
        raise BadConfig([f"{path}: is larger than {MAX_FILE} octets; name a configuration file with -c FILE"])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadConfig([f"{path}: line {line} is not UTF-8; save the file as UTF-8"]) from error


def _read(text: str, environ: Mapping[str, str], base: Path) -> tuple[Config, list[str]]:
    raw = _toml(text)
    mistakes = Mistakes()
    for variable, value in sorted(environ.items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and LEVEL in variable:
            _override(raw, variable, value, mistakes)
    found = read_struct(SHAPE, raw, "", mistakes, base=str(base))
    check_together(found, mistakes)
    return found, mistakes.lines


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python reads
        raise BadConfig([_syntax(str(error))]) from error
    except RecursionError as error:
        raise BadConfig(["brackets are nested too deeply; write tables and lists as config.toml does"]) from error


def _syntax(text: str) -> str:
    found = _AT_LINE.fullmatch(text)
    if found is None:
        return f"not TOML: {text}"
    where = f"line {found['line']}, column {found['column']}" if found["line"] else "the last line"
    return f"{where}: {found['what']}; write TOML as config.toml does"


def _override(raw: dict[str, Any], variable: str, value: str, mistakes: Mistakes) -> None:
    path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split(LEVEL)
    kind = _kind_at(path)
    if kind is None:
        near = get_close_matches(variable, list(_variables()), n=1)
        mistakes.add(variable, f"names no key of the configuration; {f'write {near[0]}' if near else 'unset it'}")
        return
    table = raw
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            return  # the file has a value where a table belongs, which is reported from there
    table[path[-1]] = _environment_value(value, kind)
    mistakes.origins[".".join(path)] = variable


def _kind_at(path: Sequence[str]) -> inspect.Type | None:
    """Return the type of the key a variable names; None when there is no such key."""
    kind: inspect.Type = SHAPE
    for part in path:
        if isinstance(kind, inspect.StructType):
            found = {field.name: field.type for field in keys_of(kind)}.get(part)
            if found is None:
                return None
            kind = found
        elif isinstance(kind, inspect.DictType) and TABLE_KEY.fullmatch(part):
            kind = kind.value_type
        else:
            return None
    return None if isinstance(kind, (inspect.StructType, inspect.DictType)) else kind


def _environment_value(value: str, kind: inspect.Type) -> Any:
    try:
        read = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return value
    if set(read) != {"value"} or (_is_text(kind) and not isinstance(read["value"], str)):
        return value
    return read["value"]


def _is_text(kind: inspect.Type) -> bool:
    return isinstance(bare(kind), (inspect.StrType, inspect.LiteralType))


def _variables() -> Iterator[str]:
    for section in keys_of(SHAPE):
        if isinstance(section.type, inspect.StructType):
            for field in keys_of(section.type):
                yield f"{ENVIRONMENT_PREFIX}{section.name.upper()}{LEVEL}{field.name.upper()}"


def _missing_files(found: Config) -> list[str]:
    named = {
        "upstream.root_hints": found.upstream.root_hints,
        "upstream.tls_ca_file": found.upstream.tls_ca_file,
        "redis.password_file": found.redis.password_file,
    } | {f"upstream.trust_anchors[{at}]": name for at, name in enumerate(found.upstream.trust_anchors)}
    return [
        f"{path}: there is no file {shown(str(Path(found.base) / name))}; write the path of one, or remove the line"
        for path, name in named.items()
        if name and not _is_file(Path(found.base) / name)
    ]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, a zero byte, a folder that may not be entered
        return False
