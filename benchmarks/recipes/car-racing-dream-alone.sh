#!/usr/bin/env bash
# CarRacing, evolved only in dreams, from random driving: all commands of the record, to be run one by one, from the root of a
# checkout with `.venv/bin` on the PATH; "stopped" means by hand (Ctrl-C), in that generation.

worldmodel run car-racing --out runs/ends --seed 91 --env_options '{"action_repeat": 3, "show_hud": true}' --iterations 3 \
    --collect.episodes 240 --collect.policy smooth,uniform --collect.exploration 0.2 --collect.patience 40 \
    --vae.updates 2000 --vae.batch 64 --vae.precision bfloat16 --vae.hud_loss_weight 16 \
    --memory.hidden_size 128 --memory.updates 3000 --memory.batch 32 --memory.conditional true --memory.stalls_end true --memory.overhang true \
    --iterate.episodes 40 --iterate.exploration 0.05 --iterate.spread 0.05 --iterate.memory_updates 1000 --iterate.start last \
    --iterate.newest 240 --iterate.newest_share 0.5 --iterate.beginnings 0.15 --iterate.worlds 4 --iterate.caution 0 \
    --dream.generations 20 --dream.population 48 --dream.dreams 24 --dream.horizon 120 --dream.temperature 1.15 \
    --dream.sigma 0.07 --dream.decay 0.97 --game.generations 0 --test.episodes 4
# the same run goes on, each time with other settings over those before:
#   --iterations 4:   --dream.dreams 96
#   --iterations 6:   --dream.dreams 64 --dream.horizon 300
#   --iterations 8:   --dream.hazard_ratio 3
#   --iterations 9:   --dream.sigma 0.05 --dream.average 8
#   --iterations 10:  --iterate.memory_updates 600 --dream.generations 30 --dream.hazard_ratio 2 --dream.weigh_ends true
#   --iterations 11:  --iterate.memory_updates 3000 --dream.sigma 0.06
#   --iterations 13:  --iterate.memory_updates 1000 --iterate.start best --dream.generations 15 --dream.hazard_ratio 3 --dream.sigma 0.05
#   --iterations 15:  --iterate.beginnings 0.35
python -m benchmarks.records keep runs/ends car-racing-dream-alone --where dream --title "CarRacing, dreams only, from random driving"
