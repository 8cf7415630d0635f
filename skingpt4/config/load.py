"""Reads configurations from YAML files, which may extend each other, and `key=value` overrides; writes YAML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from skingpt4.config.bundled import portable, resolved
from skingpt4.config.rules import did_you_mean
from skingpt4.config.schema import Config, ConfigError
from skingpt4.config.upgrade import removal, upgraded
from skingpt4.config.validate import check_values
from skingpt4.support.errors import reason_of


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-6 as a number, as YAML 1.2 does (1.1 requires 1.0e-6)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with everything it extends, apply overrides, and return the resolved `Config`.

    Args:
        path: a YAML file; its `extends` (a name or a list) is relative to the file itself.
        overrides: `key=value` strings, e.g. ``optim.batch_size=8``.

    Raises:
        ConfigError: unknown key, wrong type, missing value, circular `extends`, unreadable file.
    """
    merged = OmegaConf.structured(Config)
    for source, layer in _layers(Path(path), ()):
        _check_keys(layer, Config, str(source), "")
        merged = _merge(merged, layer, str(source))
    for text in overrides:
        key, sign, _ = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"override {text!r}: write it as key=value, e.g. optim.batch_size=8")
        try:
            values: Any = _string_keys(OmegaConf.to_container(OmegaConf.from_dotlist([text])))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"override {text!r}: {_first_line(error)}") from None
        _check_keys(values, Config, f"override {text!r}", "")
        merged = _merge(merged, values, f"override {text!r}")
    return _finished(merged, str(path))


def _finished(merged: Any, where: str) -> Config:
    try:
        config = OmegaConf.to_object(merged)
    except MissingMandatoryValue as error:
        text = f"{where}: '{error.full_key}' is not set; set it, or name a config that extends this one"
        raise ConfigError(text) from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from None
    assert isinstance(config, Config)
    check_values(config, where)
    return resolved(config)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.structured(portable(config)))


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain nested dicts, as a checkpoint stores it."""
    return dataclasses.asdict(portable(config))


def from_dict(values: dict[str, Any], where: str) -> Config:
    """The inverse of `to_dict`; `where` names the file in an error.

    Raises:
        ConfigError: the values do not fit the present configuration.
    """
    values = upgraded(values)
    _check_keys(values, Config, where, "")
    return _finished(_merge(OmegaConf.structured(Config), values, where), where)


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (file, values), first those of the files that `path` extends, last its own."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in above)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("[!.]*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such config{_nearest(str(path), near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, found a {type(values).__name__}")
    extends = values.pop("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: 'extends' must name a file or a list of files, found {extends!r}")
    for name in names:
        yield from _layers(path.parent / name, (*above, path.resolve()))
    yield path, _string_keys(values)


def _string_keys(values: Any) -> Any:
    """The same values with every key a string: YAML reads ``0: 20GiB`` as a number's."""
    if isinstance(values, dict):
        return {str(key): _string_keys(value) for key, value in values.items()}
    return values


def _check_keys(values: dict[Any, Any], schema: type, where: str, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            hint = _nearest(name, [prefix + f for f in fields])
            raise ConfigError(f"{where}: {removal(name) or f'unknown key {name!r}{hint}'}")
        factory = fields[key].default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: '{name}' must be a group of keys, found {value!r}")
            _check_keys(value, factory, where, f"{name}.")


def _merge(base: Any, values: Any, where: str) -> Any:
    try:
        return OmegaConf.merge(base, values)
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None)
        place = f"'{key}': " if key else ""
        raise ConfigError(f"{where}: {place}{_first_line(error)}") from None


def _nearest(name: str, valid: list[str]) -> str:
    """The nearest valid name, or the first valid names where none is near."""
    return did_you_mean(name, valid) or (f"; valid: {', '.join(valid[:20])}" if valid else "")


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
