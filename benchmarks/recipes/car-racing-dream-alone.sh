#!/usr/bin/env bash
# CarRacing, evolved only in dreams, from random driving: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.

worldmodel run car-racing --out runs/ends --seed 91 --env_options '{"action_repeat": 3, "show_hud": true}' --iterations 3 \
    --collect.episodes 240 --collect.policy smooth,uniform --collect.action_noise 0.2 --collect.max_idle_steps 40 \
    --vae.num_updates 2000 --vae.batch_size 64 --vae.dtype bfloat16 --vae.hud_loss_weight 16 \
    --memory.hidden_size 128 --memory.num_updates 3000 --memory.batch_size 32 --memory.conditional true --memory.terminate_on_stall true --memory.pad_episode_ends true \
    --iterate.episodes 40 --iterate.action_noise 0.05 --iterate.param_noise 0.05 --iterate.memory_updates 1000 --iterate.init_from last \
    --iterate.recent_episodes 240 --iterate.recent_fraction 0.5 --iterate.initial_state_fraction 0.15 --iterate.ensemble_size 4 \
    --dream.generations 20 --dream.population 48 --dream.num_rollouts 24 --dream.horizon 120 --dream.temperature 1.15 \
    --dream.sigma 0.07 --dream.sigma_decay 0.97 --game.generations 0 --eval.episodes 4
# the same run continues, each time with these changes to the settings before:
#   --iterations 4:   --dream.num_rollouts 96
#   --iterations 6:   --dream.num_rollouts 64 --dream.horizon 300
#   --iterations 8:   --dream.termination_hazard_ratio 3
#   --iterations 9:   --dream.sigma 0.05 --dream.mean_window 8
#   --iterations 10:  --iterate.memory_updates 600 --dream.generations 30 --dream.termination_hazard_ratio 2 --dream.use_expected_continuation true
#   --iterations 11:  --iterate.memory_updates 3000 --dream.sigma 0.06
#   --iterations 13:  --iterate.memory_updates 1000 --iterate.init_from best --dream.generations 15 --dream.termination_hazard_ratio 3 --dream.sigma 0.05
#   --iterations 15:  --iterate.initial_state_fraction 0.35
python -m benchmarks.records keep runs/ends car-racing-dream-alone --where dream --title "CarRacing, dreams only, from random driving"
