"""Fields of settings: each has its default, help and range in the metadata of a dataclass field. Start reading at `setting`."""

import math
from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from inspect import signature
from typing import Any, NamedTuple, TypeVar

Value = TypeVar("Value")


class Range(NamedTuple):
    """The range of a number; None: no limit on this side."""

    above: float | None = None
    least: float | None = None
    most: float | None = None

    def __contains__(self, value: object) -> bool:
        """Return whether a number is finite and in the range."""
        return (
            isinstance(value, int | float)
            and math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        words = zip(("above", "at least", "at most"), self, strict=True)
        return " and ".join(f"{word} {limit:g}" for word, limit in words if limit is not None) or "finite"


POSITIVE, NOT_NEGATIVE = Range(above=0), Range(least=0)


def about(help_text: str, within: Range = POSITIVE, common: bool = False) -> dict[str, Any]:
    """Return the metadata of the field of a setting.

    Args:
        help_text: Description on the command line and in the documentation.
        within: Range of its numbers. Seeds have ranges of their own (`agents.config.validate.validate_seeds`).
        common: Whether people set it often: ``worldmodel run --help`` shows only these.
    """
    return {"help": help_text, "within": within, "common": common}


def setting(default: Value, *given: Any, **named: Any) -> Value:
    """Return the field of a setting with a default; the other arguments are those of `about`."""
    return field(default=default, metadata=about(*given, **named))


def described(kind: type[Value]) -> type[Value]:
    """Add the help of the settings to the docstring of their dataclass, where jsonargparse and Sphinx read it."""
    texts = {
        one.name: str(one.metadata.get("help") or one.type.__doc__).partition("\n\nArgs:")[0]
        for one in fields(kind)  # type: ignore[arg-type]
    }
    arguments = "\n".join(f"    {name}: {' '.join(text.split())}" for name, text in texts.items())
    kind.__doc__ = f"{kind.__doc__}\n\nArgs:\n{arguments}\n"
    return kind


def rare_settings(config: Any, prefix: str = "") -> frozenset[str]:
    """Return the names of the settings of a dataclass that are not common, such as ``memory.rank``."""
    found: set[str] = set()
    for one in fields(config):
        if is_dataclass(one.type):
            found |= {f"{prefix}{one.name}", *rare_settings(one.type, f"{prefix}{one.name}.")}
        elif not one.metadata["common"]:
            found.add(f"{prefix}{one.name}")
    return frozenset(found)


def arguments_of(function: Callable[..., Any], *sections: Any) -> dict[str, Any]:
    """Return the settings in some sections that are arguments of a function or class with a default there, by name."""
    arguments = signature(function).parameters.values()
    names = {one.name for one in arguments if one.default is not one.empty}
    return {name: value for section in sections for name, value in vars(section).items() if name in names}
