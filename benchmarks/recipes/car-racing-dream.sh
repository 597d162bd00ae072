#!/usr/bin/env bash
# CarRacing, evolved only in dreams: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.

worldmodel run car-racing --preset quick --out runs/first --dream.generations 0 --eval.episodes 2 \
    --env_options '{"action_repeat": 4}'   # a weak agent, used as behavior policy
worldmodel run car-racing --out runs/dreamer6 --seed 9 --env_options '{"action_repeat": 3}' --iterations 10 \
    --collect.episodes 240 --collect.policy smooth,uniform,runs/first/agent --collect.action_noise 0.2 --collect.max_idle_steps 40 \
    --vae.num_updates 2000 --vae.batch_size 64 --vae.dtype bfloat16 \
    --memory.hidden_size 128 --memory.num_updates 3000 --memory.batch_size 32 --memory.conditional true \
    --iterate.episodes 12 --iterate.action_noise 0.05 --iterate.param_noise 0.05 --iterate.memory_updates 400 --iterate.init_from last \
    --iterate.recent_episodes 96 --iterate.recent_fraction 0.5 --iterate.initial_state_fraction 0.15 --iterate.ensemble_size 4 \
    --dream.generations 30 --dream.population 48 --dream.num_rollouts 24 --dream.horizon 120 --dream.temperature 1.0 \
    --dream.sigma 0.07 --dream.sigma_decay 0.97 --game.generations 0 --eval.episodes 4
# the same run continues with other settings
worldmodel run car-racing --out runs/dreamer6 --seed 9 --env_options '{"action_repeat": 3}' --iterations 24 \
    --collect.episodes 240 --collect.policy smooth,uniform,runs/first/agent --collect.action_noise 0.2 --collect.max_idle_steps 40 \
    --vae.num_updates 2000 --vae.batch_size 64 --vae.dtype bfloat16 \
    --memory.hidden_size 128 --memory.num_updates 3000 --memory.batch_size 32 --memory.conditional true \
    --iterate.episodes 40 --iterate.action_noise 0.05 --iterate.param_noise 0.05 --iterate.memory_updates 800 --iterate.init_from last \
    --iterate.recent_episodes 240 --iterate.recent_fraction 0.5 --iterate.initial_state_fraction 0.15 --iterate.ensemble_size 4 \
    --dream.generations 20 --dream.population 48 --dream.num_rollouts 24 --dream.horizon 120 --dream.temperature 1.15 \
    --dream.sigma 0.07 --dream.sigma_decay 0.97 --game.generations 0 --eval.episodes 4
python -m benchmarks.records keep runs/dreamer6 car-racing-dream --where dream --also runs/first --ship --title "CarRacing, dreams only (a driver helps collecting)"
