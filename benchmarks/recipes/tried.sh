#!/usr/bin/env bash
# Runs of which docs/records.md (tried, and not kept) and docs/evolution.md give findings. To be run one by one, from the root of a checkout
# with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C).

# runs/ind-fast: as runs/ind-eye in car-racing.sh, with --seed 42 --vae.hud_loss_weight 1 --vae.updates 1500 --memory.updates 1500
# runs/ind-dream: as runs/ends in car-racing-dream-alone.sh, without --memory.stalls_end and --memory.overhang, with --iterate.memory_updates 800
# The ablation: of three runs, one has `worldmodel train memory RUN --updates 1 --lr 1e-9 --batch 32 --hidden 64 --conditional true --seed 7` before,
# another one --controller.sees latent.

worldmodel run car-racing --out runs/strong --seed 61 --env_options '{"action_repeat": 2}' --iterations 6 \
    --collect.episodes 240 --collect.exploration 0.15 \
    --collect.policy smooth,agents/pretrained/car-racing,agents/pretrained/car-racing,agents/pretrained/car-racing \
    --vae.updates 4000 --vae.batch 64 --vae.precision bfloat16 \
    --memory.hidden_size 256 --memory.updates 5000 --memory.batch 32 --memory.conditional true \
    --iterate.episodes 10 --iterate.exploration 0.2 --iterate.memory_updates 600 --iterate.start last --iterate.newest 240 \
    --iterate.beginnings 0.3 --iterate.worlds 2 --iterate.caution 0.5 --dream.generations 20 --dream.population 48 --dream.dreams 16 \
    --dream.horizon 120 --dream.temperature 1.0 --game.generations 0 --test.episodes 4
worldmodel run car-racing --out runs/sure --seed 9 --env_options '{"action_repeat": 3}' --iterations 7 \
    --collect.episodes 240 --collect.policy smooth,uniform,runs/first/agent --collect.exploration 0.2 --collect.patience 40 \
    --vae.updates 2000 --vae.batch 64 --vae.precision bfloat16 \
    --memory.hidden_size 128 --memory.updates 3000 --memory.batch 32 --memory.conditional true \
    --iterate.episodes 12 --iterate.exploration 0.05 --iterate.spread 0.05 --iterate.memory_updates 600 --iterate.start last \
    --iterate.newest 96 --iterate.newest_share 0.5 --iterate.beginnings 0.3 --iterate.worlds 2 --iterate.caution 0.5 \
    --dream.generations 25 --dream.population 48 --dream.dreams 16 --dream.horizon 80 --dream.temperature 0.7 \
    --dream.sigma 0.07 --dream.decay 0.97 --game.generations 0 --test.episodes 4      # runs/sure-120: --dream.horizon 120, 3 iterations

worldmodel evolve runs/car --where game --seed 7 --game.population 32 --game.episodes 3 --game.most_episodes 16 \
    --game.generations 30 --game.patience 40 --game.check_every 10 --game.check_episodes 24 --game.lanes 16

worldmodel collect CarRacing --out runs/car-eye --episodes 240 --exploration 0.15 --env_options '{"action_repeat": 2}' --seed 61 \
    --policy smooth,agents/pretrained/car-racing,agents/pretrained/car-racing,agents/pretrained/car-racing
worldmodel train vae runs/car-eye --updates 4000 --batch 64 --precision bfloat16 --seed 61
worldmodel train memory runs/car-eye --updates 5000 --batch 32 --hidden 256 --conditional true --seed 61
worldmodel evolve runs/car-eye --where game --seed 62 --game.start agents/pretrained/car-racing \
    --game.population 40 --game.episodes 6 --game.scouted 20 --game.whiten true --game.sigma 0.025 --game.decay 0.985 --game.average 8 \
    --game.patience 60 --game.check_every 6 --game.check_episodes 48 --game.lanes 16 --game.generations 1000     # stopped in generation 40
worldmodel evaluate runs/car-eye --env FastCarRacing --episodes 100 --seed 40000     # runs/car-third and car-racing --pretrained, too

worldmodel collect CarRacing --out runs/car-fast-on --episodes 40 --policy runs/car-fast/agent --exploration 0.1 \
    --env_options '{"action_repeat": 2}' --seed 23
mkdir runs/car-fast-on/world && cp runs/car-fast/world/{config.json,vae.safetensors,memory.safetensors} runs/car-fast-on/world/
worldmodel evolve runs/car-fast-on --where game --seed 24 --game.start runs/car-fast/evolve-game/controller.safetensors \
    --game.population 32 --game.episodes 6 --game.ranked true --game.sigma 0.025 --game.decay 0.985 --game.average 8 \
    --game.patience 60 --game.check_every 5 --game.check_episodes 48 --game.lanes 16 \
    --game.generations 1000     # stopped in generation 21
worldmodel evaluate runs/car-fast-on --episodes 100 --seed 30000

worldmodel collect mario --out runs/sticky --episodes 100 --policy agents/pretrained/mario-1-1,agents/pretrained/mario-1-1,uniform \
    --exploration 0.1 --max_steps 300 --env_options '{"action_repeat": 8, "action_set": "run", "sticky_action_prob": 0.25}' --seed 41
mkdir runs/sticky/world && cp agents/pretrained/mario-1-1/{config.json,vae.safetensors,memory.safetensors} runs/sticky/world/
worldmodel evolve runs/sticky --where game --seed 81 --game.start agents/pretrained/mario-1-1/controller.safetensors \
    --game.population 48 --game.episodes 6 --game.moments 12 --game.stretch 40 --game.balanced true --game.patience 12 --game.max_steps 300 \
    --game.check_every 3 --game.check_episodes 16 --game.elite 3 --game.average 5 --game.sigma 0.06 --game.lanes 16 \
    --game.generations 1000     # stopped in generation 26
worldmodel evaluate runs/sticky --episodes 40 --seed 30000      # and with --env_options '{"sticky_action_prob": 0.0}'

worldmodel run mario --preset quick --out runs/mario-dreamer --seed 3 --iterations 30 --workers 1 --collect.episodes 240 \
    --collect.policy uniform,agents/pretrained/mario-1-1 --collect.exploration 0.15 --collect.max_steps 200 \
    --vae.updates 1500 --memory.updates 1500 --memory.conditional true --iterate.episodes 10 --iterate.exploration 0.1 \
    --iterate.memory_updates 400 --iterate.start last --iterate.newest 240 --iterate.beginnings 0.4 --iterate.worlds 2 \
    --iterate.caution 0.5 --dream.generations 40 --dream.population 48 --dream.dreams 16 --dream.horizon 60 \
    --dream.temperature 1.0 --game.generations 0 --game.moments 0 --test.episodes 16     # stopped after nine iterations
