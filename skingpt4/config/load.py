"""Reads configurations from YAML files, which may extend each other, and `key=value` overrides; writes YAML."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import GrammarParseError, MissingMandatoryValue, OmegaConfBaseException

from skingpt4.config.bundled import portable, resolved
from skingpt4.config.rules import did_you_mean
from skingpt4.config.schema import Config, ConfigError, EngineConfig, VisionConfig
from skingpt4.config.typed import build, check_keys, not_set
from skingpt4.config.upgrade import upgraded
from skingpt4.config.validate import check_values
from skingpt4.config.vision_files import VisionFilesError, completed
from skingpt4.support.errors import reason_of
from skingpt4.support.parse import ParseError, parse_yaml, plain_values
from skingpt4.support.regular import read_regular_text

MAX_FILES = 100  # that one configuration is read from
ENGINE = "engine"  # the group of what writes answers, which is no part of what was trained
RECIPE = "recipe"  # the key that makes a file a recipe of several steps, see `skingpt4.config.recipe`


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with everything it extends, apply overrides, and return the resolved `Config`.

    Args:
        path: a YAML file; its `extends` (a name or a list) is relative to the file itself.
        overrides: `key=value` strings, e.g. ``optim.batch_size=8``.

    Raises:
        ConfigError: unknown key, wrong type, missing value, circular `extends`, unreadable file.
    """
    return config_of(layers(Path(path)), overrides, str(path))


def config_of(
    given: Iterable[tuple[Path | str, dict[str, Any]]], overrides: Sequence[str], where: str
) -> Config:
    """The configuration of values that lie over each other, then of overrides.

    Args:
        given: (file, values), the lowest first; from `layers` and `layers_of`.
        overrides: `key=value` strings.
        where: the file that an error names where no other is to blame.

    Raises:
        ConfigError: as of `load_config`.
    """
    merged = _defaults()
    for number, (source, layer) in enumerate(given):
        if number == MAX_FILES:
            raise ConfigError(
                f"{where}: extends more than {MAX_FILES} files, counted as often as they are named"
            )
        merged = _merged(merged, layer, str(source))
    for text in overrides:
        place = f"override {text!r}"
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"{place}: write it as key=value, e.g. optim.batch_size=8")
        try:
            values = parse_yaml(value)
        except ParseError as error:
            raise ConfigError(f"{place}: is not valid YAML ({error})") from None
        for name in reversed(re.split(r"(?<!\\)\.", key)):
            values = {name.replace("\\.", "."): values}
        merged = _merged(merged, values, place)
    return _finished(_resolved(merged, where), where)


def _defaults() -> dict[str, Any]:
    """The schema's values, with null for those of the vision encoder that its own files may give."""
    values = dataclasses.asdict(Config())
    for field in dataclasses.fields(VisionConfig):
        if "own" in field.metadata:
            values["vision"][field.name] = None
    return values


def _merged(lower: dict[str, Any], values: dict[str, Any], where: str) -> dict[str, Any]:
    if isinstance(name := values.get(ENGINE), str):
        values = {**values, ENGINE: {"name": name}}
    try:
        checked = check_keys(values, Config)
        if _refers(checked):
            OmegaConf.create(checked)  # a reference that cannot be read is named with its file
        return _laid_over(lower, checked)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except OmegaConfBaseException as error:
        raise _reference_problem(error, where) from None


def _laid_over(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Nested values with those of another layer in their place; lists are replaced as a whole."""
    both = {
        key: _laid_over(lower[key], value)
        for key, value in upper.items()
        if isinstance(value, dict) and isinstance(lower.get(key), dict)
    }
    return lower | upper | both


def _resolved(merged: dict[str, Any], where: str) -> dict[str, Any]:
    """The values with every reference replaced by what it stands for."""
    if not _refers(merged):  # OmegaConf's nodes cost more than all the rest
        return merged
    try:
        values = OmegaConf.to_container(OmegaConf.create(merged), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{where}: {not_set(str(error.full_key))}") from None
    except OmegaConfBaseException as error:
        raise _reference_problem(error, where) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _refers(value: Any) -> bool:
    """Whether a text in it refers to another value (`${...}`), or a value is missing (`???`)."""
    if isinstance(value, dict):
        return any(map(_refers, value.values()))
    if isinstance(value, list):
        return any(map(_refers, value))
    return isinstance(value, str) and ("${" in value or value == MISSING)


def _reference_problem(error: OmegaConfBaseException, where: str) -> ConfigError:
    reason = str(error).split("\n")[0]
    reason = re.sub(r'^KeyError raised while resolving interpolation: "(.*)"$', r"\1", reason)
    reason = reason.replace("Interpolation key", "the key").replace("interpolation", "reference")
    if isinstance(error, GrammarParseError):
        reason = (
            "holds a '${' that begins no reference such as ${oc.env:NAME}; write '\\${' for the text itself"
        )
    return ConfigError(f"{where}: '{error.full_key}': {reason}")


def _finished(values: dict[str, Any], where: str) -> Config:
    try:
        if isinstance(vision := values.get("vision"), dict):
            values = {**values, "vision": completed(vision)}
        config = build(values, Config)
    except (ConfigError, VisionFilesError) as error:
        raise ConfigError(f"{where}: {error}") from None
    check_values(config, where)
    return resolved(config)


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal object, but for `engine`."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(to_dict(config))))


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain nested dicts, as a checkpoint stores it: without `engine`."""
    values = dataclasses.asdict(portable(config))
    del values[ENGINE]
    return values


def from_dict(values: dict[str, Any], where: str) -> Config:
    """The inverse of `to_dict`; `where` names the file in an error.

    Raises:
        ConfigError: the values do not fit the present configuration.
    """
    return _finished(upgraded(values), where)


def from_card(values: dict[str, Any], where: str) -> Config:
    """The configuration that a checkpoint brings, which somebody else may have written; otherwise as `from_dict`.

    Folders that are written to are taken from it only where they are in the working folder, and no server to which
    pictures would go.
    """
    values = {key: value for key, value in values.items() if key != ENGINE}
    for group, key in (("language", "offload_dir"), ("data", "feature_cache")):
        part = values.get(group)
        if isinstance(part, dict) and isinstance(folder := part.get(key), str) and _leads_out(folder):
            values[group] = {**part, key: None}
    return from_dict(values, where)


def with_engine(config: Config, path: str | Path | None) -> Config:
    """A configuration with the group `engine` of another YAML file; unchanged where there is none.

    Raises:
        ConfigError: the file cannot be read, or holds anything else.
    """
    if path is None:
        return config
    values = read_values(Path(path))
    if set(values) != {ENGINE}:
        raise ConfigError(
            f"{path}: holds {', '.join(sorted(values)) or 'nothing'}; it must hold the group engine alone"
        )
    merged = _merged({ENGINE: dataclasses.asdict(EngineConfig())}, values, str(path))
    changed = dataclasses.replace(
        config, engine=build(_resolved(merged, str(path))[ENGINE], EngineConfig, "engine.")
    )
    check_values(changed, str(path))
    return changed


def _leads_out(folder: str) -> bool:
    return not Path(folder).resolve().is_relative_to(Path.cwd().resolve())


def _escaped(value: Any) -> Any:
    """The same with `${` in texts as `\\${`, which OmegaConf reads as the text itself."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (file, values), first those of the files that `path` extends, last its own.

    Raises:
        ConfigError: a file cannot be read, extends itself, or is a recipe.
    """
    if len(above) == MAX_FILES:
        raise ConfigError(f"{path}: is extended through more than {MAX_FILES} files")
    if path.resolve() in above:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in above)}")
    values = read_values(path)
    if RECIPE in values:
        raise ConfigError(f"{path}: is a recipe of several steps; run it with skingpt4 train-recipe {path}")
    yield from layers_of(values, path, above)


def read_values(path: Path) -> dict[str, Any]:
    """What one file holds by itself.

    Raises:
        ConfigError: it cannot be read, or holds no `key: value` lines.
    """
    try:
        values = parse_yaml(read_regular_text(path))
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("[!.]*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such config{_nearest(str(path), near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)})") from None
    except ParseError as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines")
    return values


def layers_of(
    values: dict[str, Any], path: Path, above: tuple[Path, ...] = ()
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """`layers` of values that stand in the file `path`."""
    values = {**values}
    extends = plain_values(values.pop("extends", []))
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: 'extends' must name a file or a list of files, found {extends!r}")
    for name in names:
        yield from layers(path.parent / name, (*above, path.resolve()))
    yield path, values


def _nearest(name: str, valid: list[str]) -> str:
    """The nearest valid name, or the first valid names where none is near."""
    return did_you_mean(name, valid) or (f"; valid: {', '.join(valid[:20])}" if valid else "")
