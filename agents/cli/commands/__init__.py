"""Subcommands of the command line, in the order of ``worldmodel --help``; `agents.cli.main` builds its parser from them.

The modules import torch and gymnasium only when a command runs, so that ``--help`` is fast.
"""

from worldmodel.agents.cli.commands import (
    benchmark,
    collect,
    compare,
    density,
    doctor,
    dream,
    evaluate,
    evolve,
    export,
    hub,
    import_rollouts,
    inspect,
    play,
    run,
    train_controller,
    train_memory,
    train_vae,
    wandb,
)
from worldmodel.agents.cli.commands.common import Command, set_preset, trained

COMMANDS = {
    "run": Command(run.build_run, run.run, run.preset),
    "benchmark": Command(benchmark.build_benchmark, benchmark.benchmark, run.preset),
    "collect": Command(collect.build_collect, collect.collect, set_preset),
    "import": Command(import_rollouts.build_import, import_rollouts.import_rollouts),
    "train vae": Command(train_vae.build_train_vae, train_vae.train_vae, trained("vae")),
    "train memory": Command(train_memory.build_train_memory, train_memory.train_memory, trained("memory")),
    "train controller": Command(train_controller.build_train_controller, train_controller.train_controller, set_preset),
    "evolve": Command(evolve.build_evolve, evolve.evolve, set_preset),
    "compare": Command(compare.build_compare, compare.compare),
    "dream": Command(dream.build_dream, dream.dream, dream.dream_preset, resumes=False),
    "play": Command(play.build_play, play.play, resumes=False),
    "export": Command(export.build_export, export.export, resumes=False),
    "evaluate": Command(evaluate.build_evaluate, evaluate.evaluate, set_preset, resumes=False),
    "density fit": Command(density.build_fit, density.fit, density.preset),
    "density evaluate": Command(density.build_evaluate, density.evaluate, resumes=False),
    "density sample": Command(density.build_sample, density.sample, resumes=False),
    "push": Command(hub.build_push, hub.push, resumes=False),
    "pull": Command(hub.build_pull, hub.pull),
    "wandb": Command(wandb.build_wandb, wandb.wandb, resumes=False),
    "inspect": Command(inspect.build_inspect, inspect.inspect, resumes=False),
    "doctor": Command(doctor.build_doctor, doctor.doctor, resumes=False),
}
