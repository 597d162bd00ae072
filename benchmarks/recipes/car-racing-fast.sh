#!/usr/bin/env bash
# CarRacing, evolved in the game, in World Models' crop, in half an hour: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.

worldmodel run car-racing --preset quick --out runs/car-first --seed 21 --dream.generations 0 --eval.episodes 2 --game.generations 24 \
    --env_options '{"action_repeat": 4}'
worldmodel run car-racing --out runs/car-fast --seed 22 --env_options '{"action_repeat": 2}' \
    --collect.episodes 160 --collect.policy smooth,runs/car-first/agent --collect.action_noise 0.2 \
    --vae.num_updates 1500 --vae.batch_size 64 --vae.dtype bfloat16 \
    --memory.hidden_size 256 --memory.num_updates 1500 --memory.batch_size 16 --memory.conditional true --dream.generations 0 \
    --game.generations 60 --game.population 32 --game.episodes 3 --game.sigma 0.09 --game.sigma_decay 0.982 --game.mean_window 8 --game.max_idle_steps 50 \
    --game.eval_every 5 --game.eval_episodes 32 --game.envs_per_worker 16 --eval.episodes 100
python -m benchmarks.records keep runs/car-fast car-racing-fast --also runs/car-first \
    --title "CarRacing, World Models' crop, half an hour"
