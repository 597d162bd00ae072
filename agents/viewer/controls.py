"""What a person's keys mean: the names of a game's actions, from which the page makes actions and its help."""

import re
from collections.abc import Sequence
from typing import Any

from worldmodel import WorldModel

KEYS = {128: "right", 64: "left", 32: "down", 16: "up", 2: "b", 1: "a"}
"""The buttons of a NES controller as the page's keys."""
CHOICES = {2: ("left", "right"), 3: ("left", "", "right"), 4: ("left", "down", "right", "up")}
"""Arrows for a few choices, where nothing is known of a game."""
MEANING = re.compile(r"NOOP|(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?")
"""An action of Atari's games."""


def controls(env: str, env_options: dict[str, Any], world: WorldModel, meanings: Sequence[str] = ()) -> dict[str, Any]:
    """How keys become the memory's action input.

    Box actions have axes: ``{"name", "negative", "positive", "rest"}``, a key for -1 and one for 1. Discrete ones have
    choices: ``{"name", "keys"}``; the page takes the one whose keys are most like those that are pressed. Both have
    ``help``: pairs of keys and what they do.

    Args:
        env: the game's id.
        env_options: arguments of `envs.make`.
        world: the world model, which knows the number of actions.
        meanings: names of discrete actions, as the game's ``get_action_meanings`` gives them.
    """
    if not world.discrete:
        axes = _axes(env, world.action_dim)
        found: dict[str, list[str]] = {}
        for axis in axes:
            for key, does in zip((axis["negative"], axis["positive"]), _ways(axis), strict=True):
                found.setdefault(key, []).append(does)
        return {"kind": "box", "axes": axes, "help": [[[key], ", ".join(does)] for key, does in found.items() if key]}
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
    always = set.intersection(*(set(choice["keys"]) for choice in choices))
    keys = [[key for key in choice["keys"] if key not in always] for choice in choices]
    return {
        "kind": "discrete",
        "choices": choices,
        "help": [[pressed, choice["name"]] for pressed, choice in zip(keys, choices, strict=True)],
    }


def _buttons(which: str) -> list[dict[str, Any]]:
    from envs.mario import ACTION_SETS

    pressed = [[key for bit, key in KEYS.items() if choice & bit] for choice in ACTION_SETS[which]]
    names = {"a": "jump", "b": "run"}
    return [{"name": " + ".join(names.get(key, key) for key in keys) or "stand", "keys": keys} for keys in pressed]


def _keys(meaning: str, number: int) -> list[str]:
    """Keys for a named action: those that its name spells, or the one of its number."""
    if not (spelt := MEANING.fullmatch(meaning)):
        return [str(number)]
    return ["a" if part == "FIRE" else part.lower() for part in spelt.groups() if part]


def _axes(env: str, actions: int) -> list[dict[str, Any]]:
    if "CarRacing" in env:
        return [
            {"name": "steer", "negative": "left", "positive": "right", "rest": 0},
            {"name": "gas", "negative": "", "positive": "up", "rest": -1},
            {"name": "brake", "negative": "", "positive": "down", "rest": -1},
        ]
    pairs = [("left", "right"), ("down", "up"), ("b", "a")]
    return [
        {"name": f"action {number}", "negative": pairs[number % 3][0], "positive": pairs[number % 3][1], "rest": 0}
        for number in range(actions)
    ]


def _ways(axis: dict[str, Any]) -> tuple[str, str]:
    """What an axis's two keys do."""
    name = axis["name"]
    if not axis["negative"]:
        return "", name
    if name == "steer":
        return f"{name} left", f"{name} right"
    return f"{name} -1", f"{name} +1"
