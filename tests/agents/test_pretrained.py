"""Pretrained agents: compact files, equal actions and the commands that take them."""

import json
import shlex

import numpy as np
import pytest
import torch

from tests import toys
from tests.command_line import refused
from worldmodel import FRMDN, VAE, Memory, WorldModel, rollouts, seeded
from worldmodel.agents import Agent, LinearController, Report, evaluate
from worldmodel.agents.cli.commands.common import env_and_options
from worldmodel.agents.cli.main import main
from worldmodel.agents.pretrained import HOME, PretrainedAgent, pretrained_agent, pretrained_names, resolve_agent
from worldmodel.agents.runs.run_folder import Run
from worldmodel.agents.viewer import scene_of
from worldmodel.start_states import StartStates
from worldmodel.vae import merge_decoder, split_decoder


def agent(latent=3):
    with seeded(0):
        world = WorldModel(VAE(latent, base_channels=32), Memory(FRMDN(latent + 2, latent, hidden_size=5))).eval()
        for parameter in world.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        blank = LinearController.for_world_model(world)
        return Agent(world, blank.with_parameters(torch.randn(blank.size)))


@pytest.fixture
def folder(tmp_path):
    """Folder of a small agent, as a run writes it."""
    original = agent()
    store = rollouts.collect(toys.counter, rollouts.uniform, 3, seed=3, out=tmp_path / "store")
    original.save(tmp_path / "agent", compact=True)
    StartStates.from_episodes(store.latents(original.world.vae), num=4).save(tmp_path / "agent")
    Report("CartPole-v1", [1.0], [1], [10_000], env_options={"action_repeat": 2}).save(
        tmp_path / "agent" / "report.json"
    )
    return tmp_path / "agent"


@pytest.mark.parametrize("latent", [3, 32])
def test_a_merged_decoder_is_the_same_function(latent):
    vae = agent(latent).world.vae.double()
    state = vae.state_dict()
    again = VAE(latent, base_channels=32).double()
    merged = merge_decoder(state)
    again.load_state_dict(split_decoder(merged))
    z = torch.randn(5, latent, dtype=torch.float64)
    torch.testing.assert_close(again.decode(z), vae.decode(z))
    assert sum(part.numel() for part in merged.values()) < 0.45 * sum(part.numel() for part in state.values())


@pytest.mark.slow
def test_compact_files_are_small_and_give_similar_actions(folder, tmp_path):
    original, loaded = agent(), Agent.load(folder)
    original.save(tmp_path / "whole")
    sizes = [
        sum(path.stat().st_size for path in agent_dir.glob("*.safetensors"))
        for agent_dir in (folder, tmp_path / "whole")
    ]
    assert sizes[0] < 0.25 * sizes[1]
    frames = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)
    space, rng = toys.counter().action_space, np.random.default_rng(0)
    actions = [[act(frame) for frame in frames] for act in (original(space, rng), loaded(space, rng))]
    np.testing.assert_allclose(actions[0], actions[1], atol=0.02)


def test_resolve_agent_finds_agents_and_runs(folder, tmp_path):
    resolved = resolve_agent(str(folder), pretrained=False)
    assert isinstance(resolved, PretrainedAgent)
    assert (resolved.env, resolved.env_options) == ("CartPole-v1", {"action_repeat": 2})
    assert isinstance(resolve_agent(str(tmp_path), pretrained=False), Run)
    scene = scene_of(resolved)
    assert list(scene.controllers) == ["trained"]
    assert len(scene.start_states) == 4
    with pytest.raises(ValueError, match="'chess'"):
        pretrained_agent("chess")


@pytest.mark.slow
def test_commands_accept_the_folder_of_an_agent(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("worldmodel.envs.make", lambda env, **options: toys.counter())
    monkeypatch.setattr("worldmodel.rollouts.env_cache._cached", {})  # other tests cache the real environment
    assert main(["dream", str(folder), "--start_step", "4", "--horizon", "8"]) == 0
    assert (folder / "media" / "dream-0-4-t1-s1.mp4").stat().st_size > 500
    assert (
        main(["dream", str(folder), "--store", str(tmp_path / "dreams"), "--horizon", "5", "--num_rollouts", "3"]) == 0
    )
    assert len(rollouts.Store(tmp_path / "dreams")) == 3
    words = ["evaluate", str(folder), "--eval.episodes", "2", "--eval.seed", "77", "--workers", "1"]
    assert main(words) == 0
    report = json.loads((folder / "tests" / "agent-CartPole-v1-77-2.json").read_text())
    assert report["seeds"] == [77, 78]
    assert report["command"] == f"worldmodel evaluate {folder} --eval.episodes 2 --eval.seed 77"
    assert main([*words, "--eval.max_steps", "2", "--env_options", '{"noop_max": 0, "action_repeat": 1}']) == 0
    report = json.loads((folder / "tests" / "agent-CartPole-v1-77-2-noop_max-0-action_repeat-1-max-2.json").read_text())
    assert report["env_options"] == {"action_repeat": 1, "noop_max": 0}
    assert report["lengths"] == [2, 2]
    assert main([*shlex.split(report["command"])[1:], "--workers", "1"]) == 0  # the command repeats the report
    again = json.loads((folder / "tests" / "agent-CartPole-v1-77-2-noop_max-0-action_repeat-1-max-2.json").read_text())
    assert {**again, "wall_clock_s": 0} == {**report, "wall_clock_s": 0}
    assert "'chess'" in refused(capsys, "evaluate", "chess", "--pretrained")


@pytest.mark.slow
def test_report_files_cannot_import_modules(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "stranger.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    path = folder / "report.json"
    path.write_text(path.read_text().replace("CartPole-v1", "stranger:CartPole-v1"))
    for words in (["evaluate", str(folder), "--workers", "1"], ["dream", str(folder)]):
        assert "--env stranger:CartPole-v1" in refused(capsys, *words)
    assert scene_of(resolve_agent(str(folder), pretrained=False)).make_env is None
    with pytest.raises(ValueError, match="imported"):  # names on the command line are imported
        scene_of(resolve_agent(str(folder), pretrained=False), "stranger:CartPole-v1").make_env()


@pytest.mark.parametrize("id", ["stranger:Counter-v0", "worldmodel.envs:stranger:Counter-v0"])
def test_store_files_cannot_import_modules(tmp_path, id):
    rollouts.collect(toys.counter, rollouts.uniform, 1, seed=3, out=tmp_path / "rollouts")
    path = tmp_path / "rollouts" / "metadata.json"
    path.write_text(path.read_text().replace('"env": "counter"', f'"env": "{id}"'))
    with pytest.raises(ValueError, match="stranger"):
        env_and_options(Run(tmp_path), None)
    assert env_and_options(Run(tmp_path), "CartPole-v1")[0] == "CartPole-v1"


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_agents_are_complete_and_small(name):
    shipped = pretrained_agent(name)
    with torch.no_grad():
        agent = shipped.agent()
        assert torch.isfinite(agent.world.vae.decode(torch.zeros(1, agent.world.latent_dim))).all()
    report = shipped.report()
    assert report.n >= 100
    assert max(report.seeds) < 2**24
    assert len(shipped.start_states()) >= 16
    assert sum(path.stat().st_size for path in HOME.rglob("*") if path.is_file()) < 12e6


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained_names())
def test_pretrained_agents_reproduce_their_report(name):
    """Play the first episodes of the report again, in the official game.

    On the processor of the report the returns are equal to the last digit. On another processor rounding errors change
    the trajectories, and only the mean return must agree with the report.
    """
    shipped, count = pretrained_agent(name), 12
    report = shipped.report()
    again = evaluate(shipped.agent(), report.env, count, report.seeds[0], workers=2, env_options=report.env_options)
    assert again.seeds == report.seeds[:count]
    if not np.allclose(again.returns, report.returns[:count], atol=1e-6):
        assert abs(again.mean - report.mean) < 4 * report.std / count**0.5


def test_inspect_describes_a_shipped_agent(capsys):
    before = sorted(HOME.rglob("*"))
    assert main(["inspect", "car-racing", "--pretrained"]) == 0
    report = Report.load(HOME / "car-racing" / "report.json")
    assert f"{report.mean:.1f}" in capsys.readouterr().out
    assert sorted(HOME.rglob("*")) == before  # nothing is written into the package
