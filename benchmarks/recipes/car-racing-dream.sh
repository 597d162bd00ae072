#!/usr/bin/env bash
# CarRacing, evolved only in dreams: all commands of the record, to be run one by one, from the root of a
# checkout with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C), in that generation.

worldmodel run car-racing --preset quick --out runs/first --dream.generations 0 --test.episodes 2 \
    --env_options '{"action_repeat": 4}'   # a weak driver: the camera man
worldmodel run car-racing --out runs/dreamer6 --seed 9 --env_options '{"action_repeat": 3}' --iterations 10 \
    --collect.episodes 240 --collect.policy smooth,uniform,runs/first/agent --collect.exploration 0.2 --collect.patience 40 \
    --vae.updates 2000 --vae.batch 64 --vae.precision bfloat16 \
    --memory.hidden_size 128 --memory.updates 3000 --memory.batch 32 --memory.conditional true \
    --iterate.episodes 12 --iterate.exploration 0.05 --iterate.spread 0.05 --iterate.memory_updates 400 --iterate.start last \
    --iterate.newest 96 --iterate.newest_share 0.5 --iterate.beginnings 0.15 --iterate.worlds 4 --iterate.caution 0 \
    --dream.generations 30 --dream.population 48 --dream.dreams 24 --dream.horizon 120 --dream.temperature 1.0 \
    --dream.sigma 0.07 --dream.decay 0.97 --game.generations 0 --test.episodes 4
# the same run goes on with other settings
worldmodel run car-racing --out runs/dreamer6 --seed 9 --env_options '{"action_repeat": 3}' --iterations 24 \
    --collect.episodes 240 --collect.policy smooth,uniform,runs/first/agent --collect.exploration 0.2 --collect.patience 40 \
    --vae.updates 2000 --vae.batch 64 --vae.precision bfloat16 \
    --memory.hidden_size 128 --memory.updates 3000 --memory.batch 32 --memory.conditional true \
    --iterate.episodes 40 --iterate.exploration 0.05 --iterate.spread 0.05 --iterate.memory_updates 800 --iterate.start last \
    --iterate.newest 240 --iterate.newest_share 0.5 --iterate.beginnings 0.15 --iterate.worlds 4 --iterate.caution 0 \
    --dream.generations 20 --dream.population 48 --dream.dreams 24 --dream.horizon 120 --dream.temperature 1.15 \
    --dream.sigma 0.07 --dream.decay 0.97 --game.generations 0 --test.episodes 4
python -m benchmarks.records keep runs/dreamer6 car-racing-dream --where dream --also runs/first --ship --title "CarRacing, dreams only (a driver helps collecting)"
