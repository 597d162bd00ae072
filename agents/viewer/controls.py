"""Key bindings of the page: names and keys of the actions of a game. Start reading at `controls`."""

import re
from collections.abc import Sequence
from typing import Any

from worldmodel import WorldModel

KEYS = {128: "right", 64: "left", 32: "down", 16: "up", 2: "b", 1: "a"}
"""Key of each bit of the NES controller."""
CHOICES = {2: ("left", "right"), 3: ("left", "", "right"), 4: ("left", "down", "right", "up")}
"""Arrow keys of discrete actions without names, by the number of actions; an empty string is no key."""
MEANING = re.compile(r"NOOP|(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?")
"""Pattern of the action names of Atari games."""


def controls(env: str, env_options: dict[str, Any], world: WorldModel, meanings: Sequence[str] = ()) -> dict[str, Any]:
    """Return the mapping from keys to the memory's action input.

    Box actions have ``axes``: ``{"name", "negative", "positive", "rest"}``, with one key for -1 and one for 1. Discrete
    actions have ``choices``: ``{"name", "keys"}``; the page chooses the action whose keys match the pressed keys best.
    Both have ``help``: pairs of keys and their effect.

    Args:
        env: Id of the environment.
        env_options: Arguments of `envs.make`.
        world: World model; it defines the number of actions.
        meanings: Names of discrete actions, as in the ``get_action_meanings`` of an Atari game.
    """
    if not world.discrete:
        axes = _axes(env, world.action_dim)
        effects: dict[str, list[str]] = {}
        for axis in axes:
            for key, effect in zip((axis["negative"], axis["positive"]), _effects(axis), strict=True):
                effects.setdefault(key, []).append(effect)
        key_help = [[[key], ", ".join(names)] for key, names in effects.items() if key]
        return {"kind": "box", "axes": axes, "help": key_help}
    if env.startswith("SuperMarioBros"):
        choices = _buttons(env_options.get("action_set", "simple"))
    elif len(meanings) == world.action_dim:
        choices = [{"name": name, "keys": _keys(name, number)} for number, name in enumerate(meanings)]
    else:
        arrows = CHOICES.get(world.action_dim)
        choices = [
            {
                "name": f"action {number}",
                "keys": [key for key in ([arrows[number]] if arrows else [str(number)]) if key],
            }
            for number in range(world.action_dim)
        ]
    common = set.intersection(*(set(choice["keys"]) for choice in choices))  # no player has to press these
    keys = [[key for key in choice["keys"] if key not in common] for choice in choices]
    return {
        "kind": "discrete",
        "choices": choices,
        "help": [[pressed, choice["name"]] for pressed, choice in zip(keys, choices, strict=True)],
    }


def _buttons(action_set: str) -> list[dict[str, Any]]:
    """Return the choices of an action set of Super Mario Bros."""
    from worldmodel.envs.mario.env import ACTION_SETS

    pressed = [[key for bit, key in KEYS.items() if choice & bit] for choice in ACTION_SETS[action_set]]
    names = {"a": "jump", "b": "run"}
    return [{"name": " + ".join(names.get(key, key) for key in keys) or "stand", "keys": keys} for keys in pressed]


def _keys(meaning: str, number: int) -> list[str]:
    """Return the keys of a named action: those in its name, or the digit key of its number."""
    if not (match := MEANING.fullmatch(meaning)):
        return [str(number)]
    return ["a" if part == "FIRE" else part.lower() for part in match.groups() if part]


def _axes(env: str, actions: int) -> list[dict[str, Any]]:
    """Return the axes of a box action with ``actions`` dimensions."""
    if "CarRacing" in env:
        return [
            {"name": "steer", "negative": "left", "positive": "right", "rest": 0},
            {"name": "gas", "negative": "", "positive": "up", "rest": -1},
            {"name": "brake", "negative": "", "positive": "down", "rest": -1},
        ]
    if "TakeCover" in env:
        return [{"name": "move", "negative": "left", "positive": "right", "rest": 0}]
    pairs = [("left", "right"), ("down", "up"), ("b", "a")]
    return [
        {"name": f"action {number}", "negative": pairs[number % 3][0], "positive": pairs[number % 3][1], "rest": 0}
        for number in range(actions)
    ]


def _effects(axis: dict[str, Any]) -> tuple[str, str]:
    """Return the effects of the negative and the positive key of an axis, in words."""
    name = axis["name"]
    if not axis["negative"]:
        return "", name
    if name in ("steer", "move"):
        return f"{name} left", f"{name} right"
    return f"{name} -1", f"{name} +1"
