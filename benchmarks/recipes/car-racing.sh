#!/usr/bin/env bash
# CarRacing, evolved in the game: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.
# From commit 1a7f6f0 on, agents/pretrained/car-racing is the result of the first search.

worldmodel run car-racing --preset quick --out runs/ind-first --seed 41 --env_options '{"action_repeat": 4, "show_hud": true}' \
    --vae.hud_loss_weight 1 --dream.generations 0 --eval.episodes 2 --game.generations 24       # a first agent: its episodes have more variety than random ones
worldmodel run car-racing --out runs/ind-eye --seed 43 --env_options '{"action_repeat": 2, "show_hud": true}' \
    --collect.episodes 160 --collect.policy smooth,runs/ind-first/agent --collect.action_noise 0.2 \
    --vae.num_updates 2000 --vae.batch_size 64 --vae.dtype bfloat16 --vae.hud_loss_weight 16 \
    --memory.hidden_size 256 --memory.num_updates 2500 --memory.batch_size 16 --memory.conditional true --dream.generations 0 \
    --game.generations 60 --game.population 32 --game.episodes 3 --game.sigma 0.09 --game.sigma_decay 0.982 --game.mean_window 8 --game.max_idle_steps 50 \
    --game.eval_every 5 --game.eval_episodes 32 --game.envs_per_worker 16 --eval.episodes 100     # its evaluation was skipped
python -m benchmarks.records keep runs/ind-eye car-racing --also runs/ind-first --ship --title "CarRacing"
# a second search continues from this result, on hard tracks
worldmodel collect CarRacing --out runs/ind-on --collect.episodes 40 --collect.policy agents/pretrained/car-racing --collect.action_noise 0.1 \
    --env_options '{"action_repeat": 2, "show_hud": true}' --seed 81
mkdir runs/ind-on/world && cp agents/pretrained/car-racing/{config.json,vae.safetensors,memory.safetensors} runs/ind-on/world/
worldmodel evolve runs/ind-on --where game --seed 82 --game.init_from agents/pretrained/car-racing/controller.safetensors \
    --game.population 48 --game.episodes 6 --game.hard_episode_candidates 24 --game.whiten true --game.sigma 0.015 --game.sigma_decay 0.97 --game.mean_window 8 \
    --game.max_idle_steps 60 --game.eval_every 4 --game.eval_episodes 64 --game.envs_per_worker 16 --game.generations 1000     # stopped in generation 9
python -m benchmarks.records keep runs/ind-on car-racing --on --ship --title "CarRacing"
