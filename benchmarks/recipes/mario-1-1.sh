#!/usr/bin/env bash
# Super Mario Bros 1-1, evolved in the game: all commands of the record, to be run one by one, from the root of a
# checkout with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C), in that generation.

worldmodel run mario --preset quick --out runs/mario-first --dream.generations 0 --test.episodes 2 --game.generations 40 \
    --game.moments 0 --game.max_steps 300 --game.check_every 8 --game.elite 0 --game.average 0    # a first player
worldmodel collect mario --out runs/mario --episodes 240 --policy uniform,runs/mario-first/agent,runs/mario-first/agent,runs/mario-first/agent \
    --exploration 0.1 --max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run"}' --seed 11
worldmodel train vae runs/mario --updates 2000 --batch 32 --latent 48 --seed 11
worldmodel train memory runs/mario --updates 1200 --batch 32 --hidden 64 --conditional true --seed 11
worldmodel evolve runs/mario --where game --seed 60 --game.population 48 --game.episodes 2 --game.moments 8 --game.stretch 30 \
    --game.patience 12 --game.max_steps 400 --game.check_every 10 --game.check_episodes 12 --game.elite 3 --game.average 10 \
    --game.lanes 32 --game.generations 1000     # stopped in generation 144
mkdir runs/mario-on && cp -r runs/mario/{rollouts,vae,memory,world} runs/mario-on/
worldmodel evolve runs/mario-on --where game --seed 62 --game.start runs/mario/evolve-game/controller.safetensors \
    --game.population 40 --game.episodes 4 --game.moments 8 --game.stretch 40 --game.patience 12 --game.max_steps 250 \
    --game.check_every 3 --game.check_episodes 16 --game.elite 4 --game.average 4 --game.sigma 0.08 --game.lanes 16 \
    --game.generations 300     # stopped

worldmodel collect mario --out runs/both --episodes 100 --policy agents/pretrained/mario-1-1,agents/pretrained/mario-1-1,uniform \
    --exploration 0.1 --max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run"}' --seed 21
mkdir runs/both/world && cp agents/pretrained/mario-1-1/{config.json,vae.safetensors,memory.safetensors} runs/both/world/
worldmodel evolve runs/both --where game --seed 71 --game.start agents/pretrained/mario-1-1/controller.safetensors \
    --game.population 48 --game.episodes 4 --game.moments 12 --game.stretch 40 --game.balanced true --game.patience 12 --game.max_steps 250 \
    --game.check_every 3 --game.check_episodes 16 --game.elite 3 --game.average 5 --game.sigma 0.06 --game.lanes 16 \
    --game.generations 300     # stopped in generation 12; the best test is that of generation 9
python -m benchmarks.records keep runs/both mario-1-1 --on --ship --title "Super Mario Bros 1-1" \
    --test 'deterministic={"noop_max": 0}' --test 'sticky actions={"sticky_action_prob": 0.25}'
