#!/usr/bin/env bash
# Super Mario Bros 1-1, evolved in the game: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.

worldmodel run mario --preset quick --out runs/mario-first --dream.generations 0 --eval.episodes 2 --game.generations 40 \
    --game.num_state_resets 0 --game.max_steps 300 --game.eval_every 8 --game.num_eval_candidates 0 --game.mean_window 0    # a first agent
worldmodel collect mario --out runs/mario --collect.episodes 240 --collect.policy uniform,runs/mario-first/agent,runs/mario-first/agent,runs/mario-first/agent \
    --collect.action_noise 0.1 --collect.max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run"}' --seed 11
worldmodel train vae runs/mario --vae.num_updates 2000 --vae.batch_size 32 --vae.latent_dim 48 --seed 11
worldmodel train memory runs/mario --memory.num_updates 1200 --memory.batch_size 32 --memory.hidden_size 64 --memory.conditional true --seed 11
worldmodel evolve runs/mario --where game --seed 60 --game.population 48 --game.episodes 2 --game.num_state_resets 8 --game.reset_horizon 30 \
    --game.max_idle_steps 12 --game.max_steps 400 --game.eval_every 10 --game.eval_episodes 12 --game.num_eval_candidates 3 --game.mean_window 10 \
    --game.envs_per_worker 32 --game.generations 1000     # stopped in generation 144
mkdir runs/mario-on && cp -r runs/mario/{rollouts,vae,memory,world} runs/mario-on/
worldmodel evolve runs/mario-on --where game --seed 62 --game.init_from runs/mario/evolve-game/controller.safetensors \
    --game.population 40 --game.episodes 4 --game.num_state_resets 8 --game.reset_horizon 40 --game.max_idle_steps 12 --game.max_steps 250 \
    --game.eval_every 3 --game.eval_episodes 16 --game.num_eval_candidates 4 --game.mean_window 4 --game.sigma 0.08 --game.envs_per_worker 16 \
    --game.generations 300     # stopped

worldmodel collect mario --out runs/both --collect.episodes 100 --collect.policy agents/pretrained/mario-1-1,agents/pretrained/mario-1-1,uniform \
    --collect.action_noise 0.1 --collect.max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run"}' --seed 21
mkdir runs/both/world && cp agents/pretrained/mario-1-1/{config.json,vae.safetensors,memory.safetensors} runs/both/world/
worldmodel evolve runs/both --where game --seed 71 --game.init_from agents/pretrained/mario-1-1/controller.safetensors \
    --game.population 48 --game.episodes 4 --game.num_state_resets 12 --game.reset_horizon 40 --game.normalize_episodes true --game.max_idle_steps 12 --game.max_steps 250 \
    --game.eval_every 3 --game.eval_episodes 16 --game.num_eval_candidates 3 --game.mean_window 5 --game.sigma 0.06 --game.envs_per_worker 16 \
    --game.generations 300     # stopped in generation 12; the best evaluation is that of generation 9
python -m benchmarks.records keep runs/both mario-1-1 --on --ship --title "Super Mario Bros 1-1" \
    --test 'deterministic={"noop_max": 0}' --test 'sticky actions={"sticky_action_prob": 0.25}'
