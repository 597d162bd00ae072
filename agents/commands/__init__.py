"""The command line's subcommands, in the order of the story: `agents.cli` makes its parser of them.

Nothing heavy is imported before a command runs, so that ``worldmodel --help`` is quick.
"""

from agents.commands import acting, comparing, density, dreaming, learning, looking, sending, whole
from agents.commands.common import Command, staged

COMMANDS = {
    "run": Command(whole.build_run, whole.run),
    "collect": Command(learning.build_collect, learning.collect),
    "train vae": Command(learning.build_train_vae, learning.train_vae),
    "train memory": Command(learning.build_train_memory, learning.train_memory),
    "evolve": Command(acting.build_evolve, acting.evolve),
    "compare": Command(comparing.build_compare, comparing.compare),
    "dream": Command(dreaming.build_dream, dreaming.dream),
    "play": Command(dreaming.build_play, dreaming.play),
    "export": Command(dreaming.build_export, dreaming.export),
    "evaluate": Command(acting.build_evaluate, acting.evaluate),
    "density fit": Command(density.build_fit, density.fit),
    "density evaluate": Command(density.build_evaluate, density.evaluate),
    "density sample": Command(density.build_sample, density.sample),
    "wandb": Command(sending.build_wandb, sending.wandb),
    "inspect": Command(looking.build_inspect, looking.inspect),
    "doctor": Command(looking.build_doctor, looking.doctor),
}
PRESETS = {
    "run": whole.preset,
    "collect": learning.collect_preset,
    "train vae": staged("vae"),
    "train memory": staged("memory"),
    "evolve": staged("controller", "dream", "game", nested=True),
    "evaluate": staged("test"),
    "dream": dreaming.dream_preset,
    "density fit": density.preset,
}
"""Commands whose defaults are those of a preset: by the words behind the command's name."""
