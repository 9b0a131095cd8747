"""Raw TOML values held against the shape of the configuration: the struct they make, and every mistake in words."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import NODEFAULT, inspect

from core import config
from core.config_forms import CHECKS, SECRET_FORMS

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHOWN: Final = 120  # characters of a wrong value that are repeated
MAX_WORD: Final = 2**64
SHAPE: Final = cast("inspect.StructType", inspect.type_info(config.Config))
TABLE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")  # what TOML takes without quotes

_NOT_KEYS: Final = frozenset({"base", "hosts"})
_EXAMPLES: Final = {"name": '"corp.example"', "servers": '["192.0.2.53"]', "url": '"https://lists.example/malware.txt"'}


class Mistakes:
    """The lines so far, and which paths the environment has set."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.origins: dict[str, str] = {}
        self._paths: list[str] = []

    def add(self, path: str, text: str) -> None:
        """Note one line; `text` goes on after the path, which names the environment variable when one set it."""
        origin = next((name for start, name in self.origins.items() if lies_in(path, start)), "")
        self.lines.append(f"{path}{f' (from {origin})' if origin else ''}: {text}")
        self._paths.append(path)

    def has(self, path: str) -> bool:
        """True when a mistake was found at `path` or inside it."""
        return any(lies_in(found, path) for found in self._paths)


def lies_in(path: str, start: str) -> bool:
    """True when `path` is `start` or names something inside it."""
    return path.startswith(start) and path[len(start) :][:1] in ("", ".", "[")


def keys_of(kind: inspect.StructType) -> list[inspect.Field]:
    """Return the fields of a table that may be written in a file."""
    return [field for field in kind.fields if not (kind.cls is config.Config and field.name in _NOT_KEYS)]


def read_struct(kind: inspect.StructType, value: Any, path: str, mistakes: Mistakes, **extra: str) -> Any:
    """Return the struct, keys that are missing or wrong at their defaults, and mistakes told."""
    keys = {field.name: field for field in keys_of(kind)}
    for name in value:
        if name not in keys:
            mistakes.add(_join(path, name), f"there is no such key; {_hint(name, keys)}")
    values = {name: _field(field, value, path, mistakes) for name, field in keys.items()}
    return kind.cls(**values, **extra)


def _field(field: inspect.Field, table: dict[str, Any], path: str, mistakes: Mistakes) -> Any:
    here = _join(path, field.name)
    if field.name in table:
        return _value(field.type, table[field.name], here, mistakes, _default(field))
    if field.required:
        mistakes.add(here, f"is missing; write {field.name} = {_EXAMPLES.get(field.name, '...')}")
    return _default(field)


def _default(field: inspect.Field) -> Any:
    if field.default is not NODEFAULT:
        return field.default
    if field.default_factory is not NODEFAULT:
        return field.default_factory()
    return () if isinstance(field.type, inspect.VarTupleType) else ""


def _value(kind: inspect.Type, value: Any, path: str, mistakes: Mistakes, default: Any) -> Any:
    match kind:
        case inspect.StructType():
            if isinstance(value, dict):
                return read_struct(kind, value, path, mistakes)
            mistakes.add(path, f"{shown(value)} is not a table; write {_header(path)}")
        case inspect.VarTupleType():
            if isinstance(value, list):
                return _items(kind.item_type, value, path, mistakes)
            mistakes.add(path, f"{shown(value)} is not a list; {_list_example(kind, value, path)}")
        case inspect.DictType():
            if isinstance(value, dict):
                return _tables(kind.value_type, value, path, mistakes)
            mistakes.add(path, f"{shown(value)} is not a table of tables; write [{path}.NAME]")
        case _:
            return _leaf(kind, value, path, mistakes, default)
    return default


def _items(kind: inspect.Type, values: list[Any], path: str, mistakes: Mistakes) -> tuple[Any, ...]:
    read = (_value(kind, value, f"{path}[{at}]", mistakes, None) for at, value in enumerate(values))
    return tuple(value for value in read if value is not None)


def _tables(kind: inspect.Type, values: dict[str, Any], path: str, mistakes: Mistakes) -> dict[str, Any]:
    if isinstance(kind, inspect.DictType):  # whose reader comes later
        return {name: value for name, value in values.items() if _is_table(value, _join(path, name), mistakes)}
    read = {name: _value(kind, value, _join(path, name), mistakes, None) for name, value in values.items()}
    return {name: value for name, value in read.items() if value is not None}


def _is_table(value: Any, path: str, mistakes: Mistakes) -> bool:
    if not isinstance(value, dict):
        mistakes.add(path, f"{shown(value)} is not a table; write {_header(path)}")
    return isinstance(value, dict)


def _leaf(kind: inspect.Type, value: Any, path: str, mistakes: Mistakes, default: Any) -> Any:
    problem = _problem(bare(kind), value, default)
    if problem:
        mistakes.add(path, f"{shown(value)} {problem}")
        return default
    if isinstance(kind, inspect.Metadata) and kind.extra is not None:
        form = kind.extra["form"]
        try:
            CHECKS[form](value)
        except ValueError as error:
            mistakes.add(path, f"{'the value' if form in SECRET_FORMS else shown(value)} {error}")
    return float(value) if isinstance(bare(kind), inspect.FloatType) else value


def _problem(kind: inspect.Type, value: Any, default: Any) -> str:
    """Return what is wrong with a single value, or nothing."""
    match kind:
        case inspect.BoolType():
            return "" if isinstance(value, bool) else "is neither true nor false; write true or false without quotes"
        case inspect.IntType():
            whole = isinstance(value, int) and not isinstance(value, bool)
            return _range(kind, value) if whole else f"is not a whole number; write one like {default}, without quotes"
        case inspect.FloatType():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return _range(kind, value) if number else f"is not a number; write one like {default}, without quotes"
        case inspect.LiteralType():
            return "" if isinstance(value, str) and value in kind.values else _choice(value, kind)
        case _:
            return "" if isinstance(value, str) else "is not text; put it in quotes"


def _range(kind: inspect.IntType | inspect.FloatType, value: float) -> str:
    low, high = kind.ge, kind.le
    inside = (low is None or value >= low) and (high is None or value <= high)
    return "" if inside else f"is out of range; write a number from {low} to {high}"


def _choice(value: Any, kind: inspect.LiteralType) -> str:
    words = [str(word) for word in kind.values]
    near = get_close_matches(value.lower(), words, n=1) if isinstance(value, str) else []
    choices = " or ".join(f'"{word}"' for word in near or words)
    return f"is not one of the choices; write {choices}"


def bare(kind: inspect.Type) -> inspect.Type:
    """Return the type without the annotations round it."""
    return kind.type if isinstance(kind, inspect.Metadata) else kind


def _join(path: str, name: str) -> str:
    part = name if TABLE_KEY.fullmatch(name) else shown(name)
    return f"{path}.{part}" if path else part


def _hint(name: str, keys: Mapping[str, inspect.Field]) -> str:
    near = get_close_matches(name.lower().replace("-", "_"), keys, n=1)
    return f"write {near[0]}" if near else f"the keys here are {', '.join(keys)}"


def _header(path: str) -> str:
    table, indexed, _ = path.partition("[")
    return f"[[{table}]]" if indexed else f"[{table}]"


def _list_example(kind: inspect.VarTupleType, value: Any, path: str) -> str:
    if isinstance(kind.item_type, inspect.StructType):
        return f"write [[{path}]] above each table"
    return f"write [{shown(value)}]" if isinstance(value, str) else 'write ["...", "..."]'


def shown(value: Any) -> str:
    """Return a value as TOML would have it, cut short, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        value = "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in value[: MAX_SHOWN + 1])
        return f'"{value[:MAX_SHOWN]}..."' if len(value) > MAX_SHOWN else f'"{value}"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, int) and abs(value) > MAX_WORD:
        return "a huge number"  # Python refuses to print integers past 4,300 digits
    return "a list" if isinstance(value, list) else str(value)
