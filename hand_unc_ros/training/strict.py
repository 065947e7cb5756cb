"""Nested mappings, as YAML gives them, into dataclasses; unknown keys, wrong types and bad values are refused."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, Union

from hand_unc_ros.errors import ConfigError

T = TypeVar('T')
_LARGEST_INT = 2 ** 63 - 1
_NAMES = {int: 'a whole number', float: 'a number', str: 'a text', bool: 'true or false'}


def setting(default: Any = MISSING, *, factory: Any = MISSING, least: float | None = None, above: float | None = None,
            most: float | None = None, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field with limits on its value: least ≤ value ≤ most, value > above, or one of the choices."""
    limits = {'least': least, 'above': above, 'most': most, 'choices': choices}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def fill(base: T, values: Any, where: str = '') -> T:
    """The dataclass instance `base` with what `values` says replaced, nested ones as well.

    where: the key under which `values` stand, for messages.  Raises ConfigError naming the key.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f'{where or "the configuration"} must be a mapping of names to values, got {values!r}')
    known = {entry.name: entry for entry in fields(base)}
    hints = typing.get_type_hints(type(base))
    changes = {}
    for key, value in values.items():
        path = f'{where}.{key}' if where else str(key)
        if key not in known:
            raise ConfigError(_unknown(path, str(key), list(known)))
        changes[key] = _value(hints[key], value, getattr(base, key), path)
        _check(changes[key], known[key].metadata, path)
    try:
        return replace(base, **changes)
    except ConfigError as error:
        raise ConfigError(f'{where}: {error}' if where else str(error)) from error


def _unknown(path: str, key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key, known, 1, 0.5)
    hint = f'did you mean {close[0]!r}? Known' if close else 'known'
    return f'unknown key {path!r}; {hint} here: {", ".join(known)}'


def _value(hint: Any, value: Any, current: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        hint = next(option for option in arguments if option is not type(None))
        return _value(hint, value, current, path)
    if is_dataclass(hint):
        return fill(hint() if current is None else current, value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f'{path} must be a list, got {value!r}')
        return tuple(_value(arguments[0], part, None, f'{path}[{place}]') for place, part in enumerate(value))
    if origin is dict or hint is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f'{path} must be a mapping, got {value!r}')
        return dict(value)
    return _scalar(hint, value, path)


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML 1.1 takes 1e-3, without a point, for a text.
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise ConfigError(f'{path} must be a number, got {_shortened(value)}') from None
        if not math.isfinite(number):
            raise ConfigError(f'{path} must be a finite number, got {number}')
        return number
    if kind is str and value is None:
        return ''
    if type(value) is not kind:
        raise ConfigError(f'{path} must be {_NAMES[kind]}, got {_shortened(value)}')
    if kind is int and abs(value) > _LARGEST_INT:
        raise ConfigError(f'{path} has more digits than a setting can have')
    return value


def _shortened(value: Any) -> str:
    text = 'a number of too many digits' if isinstance(value, int) and abs(value) > _LARGEST_INT else repr(value)
    return text if len(text) <= 100 else f'{text[:100]} …'


def _check(value: Any, limits: Mapping[str, Any], path: str) -> None:
    if value is None:
        return
    if 'choices' in limits:
        for part in value if isinstance(value, tuple) else (value,):
            if part not in limits['choices']:
                raise ConfigError(f'{path} is {part!r}; choose {"from" if isinstance(value, tuple) else "one of"} '
                                  f'{", ".join(limits["choices"])}')
        return
    # Written so that nan is refused as well.
    if 'least' in limits and not value >= limits['least']:
        raise ConfigError(f'{path} is {value}; it must be at least {limits["least"]}')
    if 'above' in limits and not value > limits['above']:
        raise ConfigError(f'{path} is {value}; it must be above {limits["above"]}')
    if 'most' in limits and not value <= limits['most']:
        raise ConfigError(f'{path} is {value}; it must be at most {limits["most"]}')
