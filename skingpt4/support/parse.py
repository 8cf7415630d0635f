"""JSON and YAML that somebody else wrote: reading ends soon, with a value or with one `ParseError`.

Nested aliases of YAML (a few lines that stand for billions of values), endless nesting, numbers of thousands of
digits, halves of surrogate pairs and files that are no files of text are refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from skingpt4.support.regular import read_regular_text

MAX_DEPTH = 60
MAX_VALUES = 100_000  # of a YAML file, with each alias counted as often as it is used
HALF_A_PAIR = "half of a surrogate pair, \\ud800 to \\udfff, is not text"


class ParseError(ValueError):
    """A text that is not what it should be; the message completes "is not JSON (...)" or "is not YAML (...)"."""


def parse_json(text: str | bytes, file_names: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: to be read.
        file_names: allow \\udc80 to \\udcff, which stand for bytes of a file's name that are not UTF-8.

    Raises:
        ParseError: it is not JSON, or not JSON that can be worked with.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text)
        if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(value):
            raise ParseError("nested too deep")
        if "\\u" in text and not _is_text(json.dumps(value, ensure_ascii=False), file_names):
            raise ParseError(HALF_A_PAIR)
    except json.JSONDecodeError as error:
        raise ParseError(f"{error.msg}, line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise ParseError(f"is not UTF-8: {error.reason}") from None
    except RecursionError:
        raise ParseError("nested too deep") from None
    except ParseError:
        raise
    except ValueError:  # Python's limit for turning digits into a number
        raise ParseError("a number of thousands of digits") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        lists = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in lists for part in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def _is_text(value: str, file_names: bool = False) -> bool:
    try:
        value.encode("utf-8", "surrogateescape" if file_names else "strict")
    except UnicodeEncodeError:
        return False
    return True


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: as `read_regular_text`.
        ParseError: the file is not JSON or holds something else.
    """
    try:
        text = read_regular_text(path)
    except UnicodeDecodeError as error:
        raise ParseError(f"is not UTF-8: {error.reason}") from None
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ParseError(f"an object was expected, found {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


@dataclass(frozen=True)
class Plain:
    """An unquoted word of YAML that may be a number, true or false: what is written, and what it may stand for."""

    text: str
    value: Any


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; keys are text, and unquoted numbers and booleans are `Plain`.

    Words are read as YAML 1.2 does: `no`, `off`, `12:30`, `010` and dates are text; `1e-6` is a number.

    Raises:
        ParseError: it is not YAML, has a key twice, or is not YAML that can be worked with.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ParseError(_reason(error)) from None
    except (ValueError, OverflowError):  # of `chr`
        raise ParseError("an escape such as \\U stands for no character") from None


def plain_values(value: Any) -> Any:
    """The same with every `Plain` replaced by the number or boolean that it stands for."""
    return _replaced(value, lambda plain: plain.value)


def plain_texts(value: Any) -> Any:
    """The same with every `Plain` replaced by what is written."""
    return _replaced(value, lambda plain: plain.text)


def _replaced(value: Any, choose: Callable[[Plain], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item, choose) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, choose) for item in value]
    return choose(value) if isinstance(value, Plain) else value


def _reason(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character #x{error.character:04x} at position {error.position} is not allowed"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    problem = re.sub(
        r"^could not determine a constructor for the tag '(.*)'$", r"the tag \1 is not read", problem
    )
    return " ".join(f"{problem}{f', line {mark.line + 1} column {mark.column + 1}' if mark else ''}".split())


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with bounds, and with the words of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - as in PyYAML

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._extents: dict[int, tuple[int, int]] = {}  # of finished nodes: (values in it, levels below it)

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _problem("nested too deep", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._extents:
                raise _problem("something that contains itself", event)
            return node
        if isinstance(node, yaml.ScalarNode) and not _is_text(node.value):
            raise _problem(HALF_A_PAIR, node)
        parts = [self._extents[id(part)] for part in _parts(node)]
        values = 1 + sum(count for count, _ in parts)
        levels = 1 + max((below for _, below in parts), default=0)
        if values > MAX_VALUES or levels > MAX_DEPTH:
            raise _problem("too many values, or aliases that stand for too many", event)
        self._extents[id(node)] = values, levels
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _problem("`key: value` lines were expected", node)
        own = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        self.flatten_mapping(node)  # the merge key `<<`
        result = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key must be one word", key)
            if own[key.value] > 1:
                raise _problem(f"the key {key.value!r} stands here twice", key)
            result[key.value] = self.construct_object(value, deep=deep)
        return result

    def construct_plain(self, node: Any) -> Plain:
        readers: dict[str, Callable[[Any], Any]] = {
            "int": self.construct_yaml_int, "float": self.construct_yaml_float, "bool": self.construct_yaml_bool,
        }  # fmt: skip
        try:
            return Plain(node.value, readers[node.tag.rpartition(":")[2]](node))
        except (ValueError, LookupError):  # thousands of digits; or an explicit tag at a text: `!!int abc`
            raise _problem("cannot be read as a value", node) from None


def _problem(text: str, place: Any) -> yaml.MarkedYAMLError:
    """What is wrong at an event or a node."""
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)


def _parts(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _prepare_loader() -> None:
    structures = ("null", "str", "seq", "map")
    _Loader.yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in structures
    }
    words = {
        "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        "int": (r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", list("-+0123456789")),
        "float": (
            r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
            list("-+.0123456789"),
        ),
        "merge": ("<<", ["<"]),
    }
    for name, (pattern, first) in words.items():
        tag = f"tag:yaml.org,2002:{name}"
        _Loader.add_implicit_resolver(tag, re.compile(rf"(?:{pattern})\Z"), first)
        if name in ("bool", "int", "float"):
            _Loader.add_constructor(tag, _Loader.construct_plain)


_prepare_loader()
