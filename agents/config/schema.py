"""Settings of a run: one dataclass for each part, one `setting` for each value. The defaults are those of ``standard``.

Start reading at `RunConfig`. A setting has its type, default, help and range in one place: the command line takes flags and
help from there, `agents.config.validate` takes ranges. A run folder keeps the resolved values in ``config.yaml``.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodel.agents.config.fields import NOT_NEGATIVE, Range, about, described, setting

FAST = {"CarRacing": "FastCarRacing", "CarRacing-v3": "FastCarRacing"}
"""Environments with a fast version of the same physics and rewards. Collection and evolution use the fast version."""
OFFICIAL = {"FastCarRacing": "CarRacing"}
"""The official environment of each fast version: the final evaluation always uses the official one."""
DREAMS = 64
"""Number of dreams that measure the return of an iteration's controller, with random numbers that evolution did not use."""
AUTO_EPISODES, AUTO_STEPS = 100, 3_000
"""Least numbers of episodes and of steps that are collected where ``collect.episodes`` is None."""


@described
@dataclass(frozen=True)
class CollectConfig:
    """Collection of real episodes."""

    episodes: int | None = setting(
        200, "Number of episodes to collect. None: 100, and more until there are 3,000 steps.", common=True
    )
    policy: str = setting(
        "smooth",
        """Behavior policy: "smooth" (a random walk through the actions), "uniform" (independent random actions), the folder
        of an agent, or "previous" (the agent of the phase before); "previous:0.2" sets the noise on its actions (0.1): the
        standard deviation for Box actions, the probability of a random action for discrete ones. Several, separated by
        commas: each episode uses one.""",
        common=True,
    )
    max_steps: int | None = setting(None, "Maximum number of steps of an episode. None: no limit.", common=True)
    max_idle_steps: int | None = setting(
        None, "Number of steps without a positive reward after which an episode is truncated. None: never."
    )


@described
@dataclass(frozen=True)
class VAEConfig:
    """Training of the VAE."""

    latent_dim: int = setting(32, "Number of latent dimensions.", common=True)
    num_updates: int = setting(10_000, "Number of gradient steps.", common=True)
    batch_size: int = setting(64, "Number of frames in a batch.")


@described
@dataclass(frozen=True)
class MemoryConfig:
    """Training of the memory."""

    flow: Literal["none", "affine", "conditional", "spline", "conditional-spline"] = setting(
        "affine",
        """Normalizing flow of the density of the next latent: "none" (RMDN), or of the FRMDN: "affine" couplings,
        "conditional" ones (affine, which read the hidden state), rational-quadratic "spline" ones, or "conditional-spline".""",
        common=True,
    )
    hidden_size: int = setting(256, "Number of recurrent units.", common=True)
    num_components: int = setting(5, "Number of components of the Gaussian mixture.")
    rank: int | Literal["full"] = setting(
        0, """Rank R of U in the precision matrix D + U U^T. 0: diagonal. "full": any precision matrix.""", NOT_NEGATIVE
    )
    num_couplings: int = setting(2, "Number of coupling layers of the flow.", NOT_NEGATIVE)
    residual: bool = setting(
        False,
        "Whether to model the whitened change of the latent instead of the next latent; all heads then see the latent.",
    )
    reward_weight: float = setting(
        1.0,
        """Weight of the reward loss; the latent loss has weight 1. A short training with a weight above 1 learns rare
        rewards.""",
    )
    pad_episode_ends: bool = setting(
        False,
        """Whether to pad sequences at the ends of episodes, so that the last steps are sampled as often as all others.
        Without padding the memory predicts terminations less often than they happen.""",
    )
    stall_delay: int | None = setting(
        None,
        """Number of steps after the last reward at which an episode that idles (collect.max_idle_steps) terminates for the
        memory. None: idle truncation is no termination.""",
        NOT_NEGATIVE,
    )
    num_updates: int = setting(10_000, "Number of gradient steps.", common=True)
    batch_size: int = setting(32, "Number of sequences in a batch.")
    seq_len: int = setting(32, "Number of steps in a sequence.")

    @property
    def density(self) -> dict[str, Any]:
        """Arguments of `worldmodel.registry.build_memory`, without the sizes of inputs and outputs."""
        sizes = {name: getattr(self, name) for name in ("hidden_size", "num_components", "residual", "reward_weight")}
        sizes |= {"full": True} if self.rank == "full" else {"rank": self.rank}
        if self.flow == "none":
            return sizes | {"density": "RMDN"}
        kind = {"conditional": "conditional" in self.flow, "spline": "spline" in self.flow}
        return sizes | kind | {"density": "FRMDN", "num_couplings": self.num_couplings}


@described
@dataclass(frozen=True)
class TrainingConfig:
    """Training of the VAE and of the memory."""

    learning_rate: float | tuple[float, float] = setting(
        1e-3, "Peak learning rate. Two, [1e-3, 3e-3]: of the VAE and of the memory."
    )

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Learning rates of the VAE and of the memory."""
        rate = self.learning_rate
        return rate if isinstance(rate, tuple) else (rate, rate)


@described
@dataclass(frozen=True)
class ControllerConfig:
    """Inputs of the controller."""

    inputs: Literal["z", "z+h"] = setting(
        "z+h", """Inputs of the controller: "z+h" (latent and hidden state) or "z" (latent only)."""
    )


@described
@dataclass(frozen=True)
class SearchConfig:
    """Steps of the evolution, in dreams and in the environment."""

    sigma: float = setting(0.1, "Initial step size (standard deviation), in units of the search's coordinates.")
    sigma_decay: float = setting(
        1.0,
        "Factor on the step size after each generation, on top of the adaptation by CMA-ES.",
        Range(above=0, most=1),
    )
    whiten: bool = setting(
        False,
        """Whether to search in whitened coordinates: along the principal components of the controller's inputs, scaled to
        unit variance.""",
    )


@described
@dataclass(frozen=True)
class DreamConfig:
    """Evolution in dreams."""

    generations: int = setting(60, "Number of generations. 0: no evolution in dreams.", NOT_NEGATIVE, common=True)
    population: int = setting(64, "Number of members in a generation.", Range(least=3), common=True)
    num_rollouts: int = setting(16, "Number of dreams for each member.")
    horizon: int = setting(300, "Maximum number of steps of a dream.", common=True)
    temperature: float = setting(
        1.15,
        "Sampling temperature of the memory. Above 1, dreams are less certain and harder to exploit.",
        common=True,
    )
    termination_hazard_ratio: float = setting(
        1.0,
        """Factor on the hazard of termination: survival probability q of a step becomes q ** ratio. Above 1, dreams
        terminate more often than the memory predicts, and controllers avoid terminations more.""",
    )


@described
@dataclass(frozen=True)
class GameConfig:
    """Evolution in the real environment."""

    generations: int = setting(
        100, "Number of generations. 0: no evolution in the environment.", NOT_NEGATIVE, common=True
    )
    population: int = setting(32, "Number of members in a generation.", Range(least=3), common=True)
    episodes: int = setting(3, "Number of episodes for each member; all members use the same seeds.", common=True)
    max_idle_steps: int | None = setting(
        None, "Number of steps without a positive reward after which an episode is truncated. None: never."
    )
    max_steps: int | None = setting(None, "Maximum number of steps of an episode. None: no limit.")
    eval_every: int = setting(10, "Number of generations between evaluations of the distribution mean on fresh seeds.")
    eval_episodes: int = setting(16, "Number of episodes of an evaluation.")
    init_from: str = setting(
        "zeros",
        """Initial controller: "zeros", "dream" (the controller evolved in dreams), "previous" (that of the phase before),
        the file of a controller, or the folder of an agent, which is first copied by behavior cloning onto this run's world
        model.""",
        common=True,
    )
    mean_window: int = setting(
        0,
        """Window of the exponential average of the distribution mean, in generations. The average is evaluated beside the
        mean and kept where it is better. 0: no average.""",
        NOT_NEGATIVE,
    )
    num_eval_candidates: int = setting(
        0,
        """Number of best members of a generation that are evaluated beside the mean and kept where they are better.""",
        NOT_NEGATIVE,
    )
    state_resets: tuple[int, int] | None = setting(
        None,
        """Number and maximum length of extra episodes for each member, [8, 40], that start from states of the generation's
        best episodes. The returns of each episode and each state reset are then standardized, so that all have the same
        weight. Only for environments that can save their state (Super Mario Bros, CarRacing). None: no extra episodes.""",
    )
    hard_episode_candidates: int = setting(
        0,
        """Number of candidate episodes. The mean of the population plays all of them; its members play the ones
        with the lowest return. 0: no selection of episodes.""",
        NOT_NEGATIVE,
    )


@described
@dataclass(frozen=True)
class IterateConfig:
    """One iteration (these settings, and those of search and dream, may change between iterations)."""

    episodes: int = setting(20, "Number of new episodes without exploration, and of new episodes with exploration.")
    candidates: int = setting(
        1,
        """Number of searches in dreams. The controller of each plays the episodes without exploration; the one with the
        highest mean return is the controller of the iteration.""",
    )
    action_noise: float = setting(
        0.2,
        """Exploration noise on actions: the standard deviation for Box actions, the probability of a random action for
        discrete ones.""",
        NOT_NEGATIVE,
    )
    param_noise: float = setting(
        0.0,
        """Standard deviation of exploration noise on the controller's parameters, drawn once for each episode. The next
        memory learns from it what similar controllers do in the environment.""",
        NOT_NEGATIVE,
    )
    memory_updates: int | None = setting(
        None,
        """Number of gradient steps that continue the training of the last iteration's memory. None: train a new memory from
        scratch.""",
    )
    vae_updates: int = setting(
        0,
        """Number of gradient steps that continue the training of the VAE on all frames. 0: the VAE stays fixed.""",
        NOT_NEGATIVE,
    )
    init_from: Literal["zeros", "last", "best"] = setting(
        "zeros",
        """Initial controller: "zeros", "last" (of the last iteration), or "best" (of the iteration with the highest mean
        return so far). With "last", further candidates start at the best one. With "best", the agent keeps the memory of that
        iteration without further training, and only the ensemble is trained: for a run that began with "last".""",
    )
    recent_episodes: int | None = setting(
        None,
        """Number of newest episodes that dreams start from, and that half of the memory's training data come from. None: all
        episodes.""",
    )
    ensemble_size: int = setting(
        1,
        """Number of memories in the ensemble. 1: dreams use the agent's own memory. Above 1: each dream uses one member of an
        ensemble of other memories, and the agent's own memory computes the hidden state.""",
    )


@described
@dataclass(frozen=True)
class EvalConfig:
    """Final evaluation, on the official environment and on fresh seeds."""

    episodes: int = setting(100, "Number of episodes for each controller.", common=True)
    seed: int = setting(10_000, "Environment seed of the first episode; training never uses these seeds.")
    max_steps: int | None = setting(
        None, "Maximum number of steps of an episode, for environments that never end. None: no limit."
    )


@described
@dataclass(frozen=True)
class RunConfig:
    """Settings of all stages."""

    env: str = field(
        metadata=about(
            """Id of the environment, as envs.make takes it. Collection and evolution use FastCarRacing for CarRacing, the final
            evaluation CarRacing for FastCarRacing.""",
            common=True,
        )
    )
    env_options: dict[str, Any] = field(
        default_factory=dict,
        metadata=about(
            """Arguments of envs.make: action_repeat, observation ("pixels", or "vector": the environment's own numbers), or
            those of the environment. They replace all of the preset's.""",
            common=True,
        ),
    )
    seed: int = setting(1, "Random seed of all stages.", common=True)
    workers: int | str = setting(
        2,
        """Number of processes that step environments. "64@ray": 64 on a Ray cluster, "64@ray://HOST:PORT": on that one.""",
        common=True,
    )
    iterations: int = setting(
        0,
        """Number of iterations of evolving in dreams, playing the new controller, and training the memory on all episodes.
        0: evolve in dreams once.""",
        NOT_NEGATIVE,
        common=True,
    )
    phases: list[dict[str, Any]] = field(
        default_factory=list,
        metadata=about(
            """Changes of these settings that follow each other: [{iterations: 3}, {iterations: 9, dream: {horizon: 300}}]. Each
            phase adds its changes to those before. A phase that changes only iterations, iterate, search, dream or game goes on
            with the world model of the phase before; any other starts anew, and can use the agent before as "previous"."""
        ),
    )
    iterate: IterateConfig = field(default_factory=IterateConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    game: GameConfig = field(default_factory=GameConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def rollout_env(self) -> str:
        """Id of the environment of collection and evolution."""
        return FAST.get(self.env, self.env)

    @property
    def evaluation_env(self) -> str:
        """Id of the environment of the final evaluation."""
        return OFFICIAL.get(self.env, self.env)

    @property
    def executor(self) -> dict[str, Any]:
        """Arguments ``workers`` and ``backend`` of functions that play episodes (`rollouts.executors.workers.run_tasks`)."""
        count, at, backend = str(self.workers).partition("@")
        return {"workers": int(count) if count.isdecimal() else self.workers, "backend": backend if at else "loky"}


def split_noise(policy: str) -> tuple[str, float | None]:
    """Return a name in ``collect.policy`` and the noise on its actions; None: the name has none.

    Example:
        >>> split_noise("runs/mine/agent:0.2"), split_noise("smooth")
        (('runs/mine/agent', 0.2), ('smooth', None))
    """
    name, _, noise = policy.rpartition(":")
    return (name, float(noise)) if re.fullmatch(r"\d+\.?\d*", noise) and name else (policy, None)
