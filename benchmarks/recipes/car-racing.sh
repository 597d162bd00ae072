#!/usr/bin/env bash
# CarRacing, evolved in the game: all commands of the record, to be run one by one, from the root of a
# checkout with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C), in that generation.
# From the commit 1a7f6f0 on, agents/pretrained/car-racing is what the first search gives.

worldmodel run car-racing --preset quick --out runs/ind-first --seed 41 --env_options '{"action_repeat": 4, "show_hud": true}' \
    --vae.hud_loss_weight 1 --dream.generations 0 --test.episodes 2 --game.generations 24       # a first driver, to see more than random driving; its eye had no emphasis yet
worldmodel run car-racing --out runs/ind-eye --seed 43 --env_options '{"action_repeat": 2, "show_hud": true}' \
    --collect.episodes 160 --collect.policy smooth,runs/ind-first/agent --collect.exploration 0.2 \
    --vae.updates 2000 --vae.batch 64 --vae.precision bfloat16 --vae.hud_loss_weight 16 \
    --memory.hidden_size 256 --memory.updates 2500 --memory.batch 16 --memory.conditional true --dream.generations 0 \
    --game.generations 60 --game.population 32 --game.episodes 3 --game.sigma 0.09 --game.decay 0.982 --game.average 8 --game.patience 50 \
    --game.check_every 5 --game.check_episodes 32 --game.lanes 16 --test.episodes 100     # its test was left out
python -m benchmarks.records keep runs/ind-eye car-racing --also runs/ind-first --ship --title "CarRacing"
# a second search goes on from what this gave, on hard tracks
worldmodel collect CarRacing --out runs/ind-on --episodes 40 --policy agents/pretrained/car-racing --exploration 0.1 \
    --env_options '{"action_repeat": 2, "show_hud": true}' --seed 81
mkdir runs/ind-on/world && cp agents/pretrained/car-racing/{config.json,vae.safetensors,memory.safetensors} runs/ind-on/world/
worldmodel evolve runs/ind-on --where game --seed 82 --game.start agents/pretrained/car-racing/controller.safetensors \
    --game.population 48 --game.episodes 6 --game.scouted 24 --game.whiten true --game.sigma 0.015 --game.decay 0.97 --game.average 8 \
    --game.patience 60 --game.check_every 4 --game.check_episodes 64 --game.lanes 16 --game.generations 1000     # stopped in generation 9
python -m benchmarks.records keep runs/ind-on car-racing --on --ship --title "CarRacing"
