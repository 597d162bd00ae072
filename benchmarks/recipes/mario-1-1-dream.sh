#!/usr/bin/env bash
# Super Mario Bros 1-1, evolved only in dreams: all commands of the record, to be run one by one, from the root of a
# checkout with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C), in that generation.

worldmodel run mario --preset quick --out runs/mario-dreamer --seed 3 --iterations 14 --collect.episodes 240 \
    --collect.policy uniform,smooth --collect.patience 12 --collect.max_steps 300 --vae.updates 1000 \
    --memory.hidden_size 128 --memory.updates 1500 --memory.batch 32 --memory.conditional true \
    --iterate.episodes 30 --iterate.exploration 0.05 --iterate.spread 0.1 --iterate.memory_updates 500 --iterate.start last \
    --iterate.newest 180 --iterate.newest_share 0.5 --iterate.beginnings 0.3 --iterate.worlds 3 --iterate.caution 0 \
    --dream.generations 20 --dream.population 48 --dream.dreams 24 --dream.horizon 50 --dream.temperature 1.15 \
    --dream.sigma 0.1 --dream.decay 0.97 --game.generations 0 --game.moments 0 --test.episodes 4
# the same with --iterations 16 --iterate.spread 0.15 --iterate.newest 240 --dream.temperature 1.0, and then with --iterations 20
# --iterate.episodes 40 --iterate.exploration 0.08 --iterate.vae_updates 300 --iterate.beginnings 0.2, too
python -m benchmarks.records keep runs/mario-dreamer mario-1-1-dream --where dream --test 'deterministic={"noop_max": 0}' \
    --test 'sticky actions={"sticky_action_prob": 0.25}' --title "Super Mario Bros 1-1, dreams only"
