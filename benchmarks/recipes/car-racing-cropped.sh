#!/usr/bin/env bash
# CarRacing, evolved in the game, in World Models' crop: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.
# Before the second and third search, agents/pretrained/car-racing must be the result of the search before (until commit 4a9ab96).

worldmodel run car-racing --preset quick --out runs/first \
    --env_options '{"action_repeat": 4}'      # a first agent: its episodes have more variety than random ones
worldmodel collect CarRacing --out runs/eye --collect.episodes 300 --collect.policy smooth,uniform,runs/first/agent --collect.action_noise 0.2 \
    --env_options '{"action_repeat": 4}' --seed 7
worldmodel train vae runs/eye --vae.num_updates 1500 --vae.batch_size 64
worldmodel collect CarRacing --out runs/record --collect.episodes 160 --collect.policy smooth,runs/first/agent --collect.action_noise 0.2 \
    --env_options '{"action_repeat": 2}' --seed 5
cp -r runs/eye/vae runs/record/
worldmodel train memory runs/record --memory.num_updates 1500 --memory.batch_size 16 --memory.hidden_size 256 --memory.conditional true --seed 5
worldmodel evolve runs/record --where game --seed 5 --game.population 24 --game.episodes 3 --game.generations 3000 \
    --game.max_idle_steps 60 --game.eval_every 10 --game.eval_episodes 16     # stopped at the end of the time budget
python -m benchmarks.records keep runs/record car-racing-cropped --also runs/first runs/eye \
    --title "CarRacing, World Models' crop"

worldmodel collect CarRacing --out runs/car-on --collect.episodes 40 --collect.policy agents/pretrained/car-racing --collect.action_noise 0.1 \
    --env_options '{"action_repeat": 2}' --seed 31
mkdir runs/car-on/world && cp agents/pretrained/car-racing/{config.json,vae.safetensors,memory.safetensors} runs/car-on/world/
worldmodel evolve runs/car-on --where game --seed 32 --game.init_from agents/pretrained/car-racing/controller.safetensors \
    --game.population 48 --game.episodes 4 --game.whiten true --game.sigma 0.045 --game.sigma_decay 0.99 --game.mean_window 8 \
    --game.max_idle_steps 60 --game.eval_every 5 --game.eval_episodes 24 --game.envs_per_worker 16 \
    --game.generations 1000     # stopped in generation 66
python -m benchmarks.records keep runs/car-on car-racing-cropped --on --title "CarRacing, World Models' crop"

worldmodel collect CarRacing --out runs/car-third --collect.episodes 40 --collect.policy agents/pretrained/car-racing --collect.action_noise 0.1 \
    --env_options '{"action_repeat": 2}' --seed 51
mkdir runs/car-third/world && cp agents/pretrained/car-racing/{config.json,vae.safetensors,memory.safetensors} runs/car-third/world/
worldmodel evolve runs/car-third --where game --seed 52 --game.init_from agents/pretrained/car-racing/controller.safetensors \
    --game.population 48 --game.episodes 8 --game.hard_episode_candidates 24 --game.whiten true --game.sigma 0.03 --game.sigma_decay 0.985 --game.mean_window 8 \
    --game.max_idle_steps 60 --game.eval_every 5 --game.eval_episodes 48 --game.envs_per_worker 16 --game.generations 1000     # stopped in generation 17
python -m benchmarks.records keep runs/car-third car-racing-cropped --on --title "CarRacing, World Models' crop"
