"""What is said before a run begins: how long it takes, and which stages it has."""

import io
from dataclasses import replace

from rich.console import Console

import rollouts
from agents import forecast, pipeline, progress
from agents.config.schema import DreamConfig, GameConfig, RunConfig
from rollouts.collect import CollectionEstimate


def test_a_forecast_grows_with_the_work(monkeypatch):
    monkeypatch.setattr(
        rollouts, "estimate_collection", lambda *args, **more: CollectionEstimate(4.0, 0.0, 4_000, 0)
    )  # 1 ms a step
    small = RunConfig("CartPole-v1", dream=DreamConfig(generations=0), game=GameConfig(generations=0))
    base = forecast.forecast(small)
    for more in (
        replace(small, vae=replace(small.vae, num_updates=20_000)),
        replace(small, memory=replace(small.memory, hidden_size=512)),
        replace(small, dream=DreamConfig(generations=5)),
        replace(small, game=GameConfig(generations=5)),
        replace(small, collect=replace(small.collect, episodes=400)),
    ):
        assert forecast.forecast(more) > base
    game = replace(small, game=GameConfig(generations=5))
    assert forecast.forecast(replace(game, game=replace(game.game, eval_every=1))) > forecast.forecast(game)
    for probed, limit in ((4_000, 100), (80, 100)):  # an episode is no longer than its limit, nor than the game's own
        monkeypatch.setattr(
            rollouts, "estimate_collection", lambda *args, p=probed, **more: CollectionEstimate(p / 1e3, 0.0, p, 0)
        )
        cut = replace(small, collect=replace(small.collect, max_steps=limit), eval=replace(small.eval, episodes=1))
        twice = replace(cut, collect=replace(cut.collect, episodes=2 * cut.collect.episodes))
        added = forecast.forecast(twice) - forecast.forecast(cut)
        assert abs(added - cut.collect.episodes * min(limit, probed // 4) / 1e3) < 1e-6
    monkeypatch.setattr(rollouts, "estimate_collection", lambda *args, **more: CollectionEstimate(4.0, 0.0, 4_000, 0))
    played = forecast.forecast(replace(small, collect=replace(small.collect, episodes=400))) - base
    assert abs(played - 200.0) < 1e-6  # of 1,000 steps of 1 ms


def test_stages_are_numbered(monkeypatch):
    settings = RunConfig("CartPole-v1")
    names = pipeline.stage_names(settings)
    assert len(names) == 7
    assert len(pipeline.stage_names(replace(settings, game=GameConfig(generations=0)))) == 6
    screen = Console(file=io.StringIO(), highlight=False)
    monkeypatch.setattr(progress, "console", screen)
    progress.Stages(*names)("train memory")
    assert "3 of 7" in screen.file.getvalue()
