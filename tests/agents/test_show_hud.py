"""CarRacing with and without HUD: the VAE weights the HUD, and agents of the other variant are refused."""

import pytest

from worldmodel.agents import Report
from worldmodel.agents.config.schema import CollectConfig, ControllerConfig, RunConfig, VAEConfig
from worldmodel.agents.pipeline import stages
from worldmodel.agents.pipeline.init_controller import validate_picture
from worldmodel.agents.pretrained import HOME, pretrained_agent
from worldmodel.agents.runs.run_folder import Run

COLLECT = CollectConfig(episodes=2, policy="uniform", max_steps=4)


@pytest.mark.slow
@pytest.mark.parametrize(("env_options", "expected"), [({}, 1.0), ({"show_hud": True}, 16.0)])
def test_the_vae_weights_the_hud_where_it_is_shown(tmp_path, env_options, expected):
    run, vae_settings = Run(tmp_path), VAEConfig(latent_dim=2, num_updates=1, batch_size=2)
    settings = RunConfig("FastCarRacing", env_options=env_options, workers=1, collect=COLLECT, vae=vae_settings)
    stages.collect(run, settings)
    vae = stages.train_vae(run, settings)
    assert vae.hud_loss_weight == expected
    assert run.vae().hud_loss_weight == expected


def test_agents_with_another_show_hud_are_refused(tmp_path):
    run = Run(tmp_path)
    stages.collect(run, RunConfig("FastCarRacing", env_options={"action_repeat": 2}, workers=1, collect=COLLECT))
    agent = pretrained_agent("car-racing").agent()
    with pytest.raises(ValueError, match="show_hud"):
        stages.init_controller(run, agent.world, ControllerConfig(), str(HOME / "car-racing"))


@pytest.mark.parametrize(("used", "shown"), [(True, False), (False, True)])
def test_an_initial_controller_needs_the_frames_that_it_was_trained_on(tmp_path, used, shown):
    Report("FastCarRacing", [1.0], [1], [10_000], env_options={"show_hud": used}).save(tmp_path / "report.json")
    validate_picture(str(tmp_path), {"show_hud": used})
    with pytest.raises(ValueError, match="show_hud"):
        validate_picture(str(tmp_path), {"show_hud": shown})
