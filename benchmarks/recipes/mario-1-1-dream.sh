#!/usr/bin/env bash
# Super Mario Bros 1-1, evolved only in dreams: all commands of the record.
# Run them one by one from the root of a checkout, with `.venv/bin` on the PATH. "Stopped" means stopped by hand (Ctrl-C) in that generation.

worldmodel run mario --preset quick --out runs/mario-dreamer --seed 3 --iterations 14 --collect.episodes 240 \
    --collect.policy uniform,smooth --collect.max_idle_steps 12 --collect.max_steps 300 --vae.num_updates 1000 \
    --memory.hidden_size 128 --memory.num_updates 1500 --memory.batch_size 32 --memory.conditional true \
    --iterate.episodes 30 --iterate.action_noise 0.05 --iterate.param_noise 0.1 --iterate.memory_updates 500 --iterate.init_from last \
    --iterate.recent_episodes 180 --iterate.recent_fraction 0.5 --iterate.initial_state_fraction 0.3 --iterate.ensemble_size 3 \
    --dream.generations 20 --dream.population 48 --dream.num_rollouts 24 --dream.horizon 50 --dream.temperature 1.15 \
    --dream.sigma 0.1 --dream.sigma_decay 0.97 --game.generations 0 --game.num_state_resets 0 --eval.episodes 4
# then the same with --iterations 16 --iterate.param_noise 0.15 --iterate.recent_episodes 240 --dream.temperature 1.0, and then also with
# --iterations 17 --iterate.episodes 40 --iterate.action_noise 0.08 --iterate.vae_updates 300 --iterate.initial_state_fraction 0.2,
# and then with --iterations 20 --iterate.vae_updates 0
python -m benchmarks.records keep runs/mario-dreamer mario-1-1-dream --where dream --test 'deterministic={"noop_max": 0}' \
    --test 'sticky actions={"sticky_action_prob": 0.25}' --title "Super Mario Bros 1-1, dreams only"
