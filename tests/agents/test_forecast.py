"""The forecast of the time of a run, and the list of its stages."""

import io
from dataclasses import replace

from rich.console import Console

from worldmodel import rollouts
from worldmodel.agents import progress
from worldmodel.agents.config.schema import DreamConfig, GameConfig, IterateConfig, RunConfig
from worldmodel.agents.pipeline import forecast, pipeline
from worldmodel.rollouts.estimate import CollectionEstimate


def test_a_forecast_grows_with_the_work(monkeypatch):
    # A step takes 1 ms.
    monkeypatch.setattr(rollouts, "estimate_collection", lambda *args, **larger: CollectionEstimate(4.0, 0.0, 4_000, 0))
    small = RunConfig("CartPole-v1", dream=DreamConfig(generations=0), game=GameConfig(generations=0))
    base = forecast.forecast(small)
    for larger in (
        replace(small, vae=replace(small.vae, num_updates=20_000)),
        replace(small, memory=replace(small.memory, hidden_size=512)),
        replace(small, dream=DreamConfig(generations=5)),
        replace(small, game=GameConfig(generations=5)),
        replace(small, collect=replace(small.collect, episodes=400)),
    ):
        assert forecast.forecast(larger) > base
    iterated = replace(small, dream=DreamConfig(generations=5), iterations=2)
    for more in (
        replace(iterated, iterations=3),
        replace(iterated, iterate=IterateConfig(candidates=2)),
        replace(iterated, iterate=IterateConfig(ensemble_size=3)),
        replace(iterated, iterate=IterateConfig(memory_updates=20_000)),
        replace(iterated, iterate=IterateConfig(episodes=100)),
    ):
        assert forecast.forecast(more) > forecast.forecast(iterated)
    game = replace(small, game=GameConfig(generations=5))
    assert forecast.forecast(replace(game, game=replace(game.game, eval_every=1))) > forecast.forecast(game)
    # An episode is no longer than max_steps and than the probed episodes.
    for probed, limit in ((4_000, 100), (80, 100)):
        monkeypatch.setattr(
            rollouts, "estimate_collection", lambda *args, p=probed, **larger: CollectionEstimate(p / 1e3, 0.0, p, 0)
        )
        limited = replace(small, collect=replace(small.collect, max_steps=limit), eval=replace(small.eval, episodes=1))
        doubled = replace(limited, collect=replace(limited.collect, episodes=2 * limited.collect.episodes))
        added = forecast.forecast(doubled) - forecast.forecast(limited)
        assert abs(added - limited.collect.episodes * min(limit, probed // 4) / 1e3) < 1e-6
    monkeypatch.setattr(rollouts, "estimate_collection", lambda *args, **larger: CollectionEstimate(4.0, 0.0, 4_000, 0))
    collecting = forecast.forecast(replace(small, collect=replace(small.collect, episodes=400))) - base
    assert abs(collecting - 200.0) < 1e-6  # of 1,000 steps of 1 ms


def test_stages_are_numbered(monkeypatch):
    settings = RunConfig("CartPole-v1")
    names = pipeline.stage_names(settings)
    assert len(names) == 7
    assert len(pipeline.stage_names(replace(settings, game=GameConfig(generations=0)))) == 6
    screen = Console(file=io.StringIO(), highlight=False)
    monkeypatch.setattr(progress, "console", screen)
    progress.Stages(*names)("train memory")
    assert "3 of 7" in screen.file.getvalue()
