"""Messages of the page to a session; start reading at `validated`."""

import math
from typing import Any

_VALUES: dict[str, type | None] = {
    "action": None,
    "controller": None,
    "pause": bool,
    "reality": bool,
    "record": bool,
    "restart": None,
    "rewind": float,
    "speed": float,
    "step": None,
    "temperature": float,
}
"""Types of messages, with the type of their value; None: another check, or no value."""


def validated(message: Any, action_dim: int, controllers: tuple[str, ...]) -> dict[str, Any]:
    """Return the type and the value of a message.

    Args:
        message: Message of the page.
        action_dim: Number of the numbers of an action.
        controllers: Names of the controllers that a visitor can select.

    Raises:
        ValueError: The message is invalid.
    """
    kind = message.get("type") if isinstance(message, dict) else None
    if not isinstance(kind, str) or kind not in _VALUES:
        raise ValueError(f"message must be an object whose type is one of {', '.join(_VALUES)}")
    value, expected = message.get("value"), _VALUES[kind]
    if expected is float and not _is_number(value):
        raise ValueError(f"{kind} must be a finite number, got {str(value)[:40]!r}")
    if expected is bool and not isinstance(value, bool):
        raise ValueError(f"{kind} must be true or false, got {value!r}")
    if kind == "action":
        numbers = value if isinstance(value, list) else []
        if len(numbers) != action_dim or not all(map(_is_number, numbers)):
            raise ValueError(f"action must be {action_dim} finite numbers, got {value!r}")
    if kind == "controller" and value not in controllers:
        raise ValueError(f"controller must be one of {', '.join(controllers)}, got {value!r}")
    return {"type": kind, "value": value}


def _is_number(value: Any) -> bool:
    """Whether a value is a number that is finite as a float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
