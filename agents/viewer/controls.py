"""What a person's keys mean: the names of a game's controls, from which the page makes actions."""

from typing import Any

from worldmodel import WorldModel

KEYS = {128: "right", 64: "left", 32: "down", 16: "up", 2: "b", 1: "a"}
"""The buttons of a NES controller as the page's keys."""
CHOICES = {2: ("left", "right"), 3: ("left", "", "right"), 4: ("left", "down", "right", "up")}
"""Arrows for so many choices, where nothing is known of a game."""


def controls(env: str, env_options: dict[str, Any], world: WorldModel) -> dict[str, Any]:
    """How keys become the memory's action input.

    Box actions have axes: ``{"name", "negative", "positive", "rest"}``, a key for -1 and one for 1. Discrete ones have
    choices: ``{"name", "keys"}``; the page takes the one whose keys are most like those that are pressed.
    """
    if not world.discrete:
        return {"kind": "box", "axes": _axes(env, world.actions)}
    if env.startswith("SuperMarioBros"):
        from envs.mario import BUTTONS

        pressed = [
            [key for bit, key in KEYS.items() if choice & bit]
            for choice in BUTTONS[env_options.get("buttons", "simple")]
        ]
        names = {"a": "jump", "b": "run"}
        choices = [
            {"name": " + ".join(names.get(key, key) for key in keys) or "stand", "keys": keys} for keys in pressed
        ]
    else:
        arrows = CHOICES.get(world.actions, ())
        choices = [
            {"name": arrows[number] or "none", "keys": [arrows[number]] if arrows[number] else []}
            if arrows
            else {"name": str(number + 1), "keys": [str(number + 1)]}
            for number in range(world.actions)
        ]
    return {"kind": "discrete", "choices": choices}


def _axes(env: str, actions: int) -> list[dict[str, Any]]:
    if "CarRacing" in env:
        return [
            {"name": "steer", "negative": "left", "positive": "right", "rest": 0},
            {"name": "gas", "negative": "", "positive": "up", "rest": -1},
            {"name": "brake", "negative": "", "positive": "down", "rest": -1},
        ]
    pairs = [("left", "right"), ("down", "up"), ("b", "a")]
    return [
        {"name": f"action {number + 1}", "negative": pairs[number % 3][0], "positive": pairs[number % 3][1], "rest": 0}
        for number in range(actions)
    ]
