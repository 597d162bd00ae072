#!/usr/bin/env bash
# Runs behind findings in docs/records.md (negative results), without those of removed options.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C).

# runs/ind-fast: like the second phase of car-racing.record.yaml, with --seed 42 --vae.num_updates 1500 --memory.num_updates 1500
# runs/ind-dream: like car-racing.record-dream-alone.yaml, without --memory.episode_ends, with --iterate.memory_updates 800
# The ablation has three runs. One of them first has `worldmodel train memory RUN --memory.num_updates 1 --training.learning_rate 1e-9 --memory.batch_size 32 --memory.hidden_size 64 --memory.flow conditional --seed 7`,
# another one has --controller.inputs z.

worldmodel collect CarRacing --out runs/car-eye --collect.episodes 240 --env_options '{"action_repeat": 2}' --seed 61 \
    --collect.policy smooth,agents/pretrained/car-racing:0.15,agents/pretrained/car-racing:0.15,agents/pretrained/car-racing:0.15
worldmodel train vae runs/car-eye --vae.num_updates 4000 --vae.batch_size 64 --seed 61
worldmodel train memory runs/car-eye --memory.num_updates 5000 --memory.batch_size 32 --memory.hidden_size 256 --memory.flow conditional --seed 61
worldmodel evolve runs/car-eye --where game --seed 62 --game.init_from agents/pretrained/car-racing \
    --game.population 40 --game.episodes 6 --game.hard_episode_candidates 20 --search.whiten true --search.sigma 0.025 --search.sigma_decay 0.985 --game.mean_window 8 \
    --game.max_idle_steps 60 --game.eval_every 6 --game.eval_episodes 48 --game.generations 1000     # stopped in generation 40
worldmodel evaluate runs/car-eye --env FastCarRacing --eval.episodes 100 --eval.seed 40000     # also runs/car-third and car-racing --pretrained

worldmodel collect mario --out runs/sticky --collect.episodes 100 --collect.policy agents/pretrained/mario-1-1,agents/pretrained/mario-1-1,uniform \
    --collect.max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run", "sticky_action_prob": 0.25}' --seed 41
mkdir runs/sticky/world && cp agents/pretrained/mario-1-1/{config.json,vae.safetensors,memory.safetensors} runs/sticky/world/
worldmodel evolve runs/sticky --where game --seed 81 --game.init_from agents/pretrained/mario-1-1/controller.safetensors \
    --game.population 48 --game.episodes 6 --game.state_resets '[12, 40]' --game.max_idle_steps 12 --game.max_steps 300 \
    --game.eval_every 3 --game.eval_episodes 16 --game.num_eval_candidates 3 --game.mean_window 5 --search.sigma 0.06 \
    --game.generations 1000     # stopped in generation 26
worldmodel evaluate runs/sticky --eval.episodes 40 --eval.seed 30000      # also with --env_options '{"sticky_action_prob": 0.0}'
