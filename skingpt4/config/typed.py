"""Values from outside in the types of the schema, or one sentence that names the key, the value and what is right."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from omegaconf import MISSING

from skingpt4.config.rules import did_you_mean
from skingpt4.config.schema import ConfigError
from skingpt4.config.upgrade import removal
from skingpt4.support.parse import Plain, plain_values

T = TypeVar("T")
REFERENCE = "${"  # begins a value that stands elsewhere, e.g. ${oc.env:HOME}
_SHOWN = 80  # characters of a value in a message
_BOOLEANS = {word: True for word in ("true", "yes", "on", "y", "1")} | {
    word: False for word in ("false", "no", "off", "n", "0")
}


def check_keys(values: Mapping[str, Any], schema: type, prefix: str = "") -> dict[str, Any]:
    """The values of a group in the schema's types; keys may be left out, and references stay as they are.

    Args:
        values: as `parse_yaml` or `json` gives them.
        schema: the dataclass of the group.
        prefix: of the keys' names in messages, e.g. ``optim.``.

    Raises:
        ConfigError: an unknown key or a value of another type; the message does not name the file.
    """
    return _group(values, schema, prefix, with_references=True)


def build(values: Mapping[str, Any], schema: type[T], prefix: str = "") -> T:
    """The dataclass with these values and its defaults; a text that looks like a reference is only a text.

    Raises:
        ConfigError: as `check_keys`, or a required key is not there.
    """
    return typing.cast(T, _made(_group(values, schema, prefix, with_references=False), schema, prefix))


def _made(values: Mapping[str, Any], schema: type, prefix: str) -> Any:
    complete = dict(values)
    for field in dataclasses.fields(schema):
        group = field.default_factory
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            complete[field.name] = _made(values.get(field.name, {}), group, f"{prefix}{field.name}.")
        elif field.default == MISSING and values.get(field.name, MISSING) == MISSING:
            raise not_set(f"{prefix}{field.name}")
    return schema(**complete)


def not_set(key: str) -> ConfigError:
    """The refusal of a configuration without a required key."""
    return ConfigError(f"'{key}' is not set; set it, or name a config that extends this one")


def _group(values: Mapping[str, Any], schema: type, prefix: str, with_references: bool) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    read: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            valid = [prefix + field for field in fields]
            hint = did_you_mean(name, valid) or f"; valid: {', '.join(valid[:20])}"
            raise ConfigError(removal(name) or f"unknown key {name!r}{hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigError(f"'{name}' must be a group of keys, found {_shown(value)}")
            read[key] = _group(value, typing.cast(type, hints[key]), f"{name}.", with_references)
        elif with_references and isinstance(value, str) and REFERENCE in value:
            read[key] = value
        elif value is None and with_references and "own" in fields[key].metadata:
            read[key] = None
        else:
            read[key] = _value(value, hints[key], name, with_references)
    return read


def _value(value: Any, hint: Any, name: str, with_references: bool) -> Any:
    optional = isinstance(hint, types.UnionType)
    if optional:
        if value is None:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    origin = typing.get_origin(hint) or hint
    if origin is list and isinstance(value, list | tuple):
        (item_hint,) = typing.get_args(hint)
        return [
            item
            if with_references and isinstance(item, str) and REFERENCE in item
            else _value(item, item_hint, f"{name}[{number}]", with_references)
            for number, item in enumerate(value)
        ]
    if origin is dict and isinstance(value, dict):
        return plain_values(value)
    if hint is Any:
        return plain_values(value)
    what, read = _READERS[origin]
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError):
        null = " or null" if optional else ""
        raise ConfigError(f"'{name}' is {_shown(value)}; it must be {what}{null}") from None


def _shown(value: Any) -> str:
    if isinstance(value, Plain):
        return value.text
    text = "null" if value is None else repr(plain_values(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _text(value: Any) -> str:
    if isinstance(value, Plain):
        return value.text
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole_number(value: Any) -> int:
    value = plain_values(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    number = int(value)
    if abs(number) >= 2**63:
        raise OverflowError
    return number


def _number(value: Any) -> float:
    value = plain_values(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> bool:
    word = str(plain_values(value)).lower()
    if word not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[word]


def _none(value: Any) -> Any:
    raise TypeError


_READERS: dict[Any, tuple[str, Callable[[Any], Any]]] = {
    str: ("text", _text),
    int: ("a whole number", _whole_number),
    float: ("a number", _number),
    bool: ("true or false", _boolean),
    list: ("a list, e.g. [a, b]", _none),
    dict: ("a group of `key: value`", _none),
}
