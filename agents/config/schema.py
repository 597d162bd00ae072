"""Settings of a run, one dataclass for each stage; the defaults are those of the ``standard`` preset.

Start reading at `RunConfig`. The command line turns the dataclasses into flags and YAML; the docstrings are its help. A run
folder keeps the resolved values in ``config.yaml``.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, TypeVar

FAST = {"CarRacing": "FastCarRacing", "CarRacing-v3": "FastCarRacing"}
"""Environments with a fast version of the same physics and rewards. Collection and evolution use the fast version."""
OFFICIAL = {"FastCarRacing": "CarRacing"}
"""The official environment of each fast version: the final evaluation always uses the official one."""
DREAMS = 64
"""Number of dreams that measure the return of an iteration's controller, with random numbers that evolution did not use."""
Value = TypeVar("Value")
Preset = Literal["quick", "standard", "paper"]


def common(default: Value) -> Value:
    """Return the field of a setting that people set often; ``worldmodel run --help`` shows only these."""
    return field(default=default, metadata={"common": True})


def rare_settings(config: Any, prefix: str = "") -> frozenset[str]:
    """Return the names of the settings of a dataclass that are not `common`, such as ``memory.rank``."""
    found: set[str] = set()
    for one in fields(config):
        if is_dataclass(one.type):
            found |= {f"{prefix}{one.name}", *rare_settings(one.type, f"{prefix}{one.name}.")}
        elif not one.metadata.get("common"):
            found.add(f"{prefix}{one.name}")
    return frozenset(found)


@dataclass(frozen=True)
class CollectConfig:
    """Collection of real episodes.

    Args:
        episodes: Number of episodes to collect.
        min_steps: Minimum number of environment steps: collection goes on until it is reached. None: no minimum.
        policy: Behavior policy: "smooth" (a random walk through the actions), "uniform" (independent random actions), or
            the folder of an agent. Several, separated by commas: each episode uses one of them.
        max_steps: Maximum number of steps of an episode. None: no limit.
        max_idle_steps: Number of steps without a positive reward after which an episode is truncated. None: never.
        action_noise: Noise on the actions of an agent: the standard deviation for Box actions, the probability of a
            random action for discrete ones.
    """

    episodes: int = common(200)
    min_steps: int | None = None
    policy: str = common("smooth")
    max_steps: int | None = common(None)
    max_idle_steps: int | None = None
    action_noise: float = 0.1


@dataclass(frozen=True)
class VAEConfig:
    """Training of the VAE.

    Args:
        latent_dim: Number of latent dimensions.
        free_bits: KL divergence per latent dimension without a penalty, in nats.
        hud_loss_weight: Weight of the reconstruction loss in the lowest eighth of the frame, where a HUD may be. None:
            16 where CarRacing shows its HUD, else 1.
        num_updates: Number of gradient steps.
        batch_size: Number of frames in a batch.
        learning_rate: Peak learning rate.
        patience: Number of validations without a lower validation loss after which training stops. None: never.
        dtype: Floating-point type of training: "float32" or "bfloat16" (faster where the hardware supports it).
    """

    latent_dim: int = common(32)
    free_bits: float = 0.5
    hud_loss_weight: float | None = None
    num_updates: int = common(10_000)
    batch_size: int = 64
    learning_rate: float = 1e-3
    patience: int | None = 20
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class MemoryConfig:
    """Training of the memory.

    Args:
        model: Density of the next latent: "frmdn" (with a normalizing flow) or "rmdn" (without).
        hidden_size: Number of recurrent units in a layer.
        num_components: Number of components of the Gaussian mixture.
        rank: Rank R of U in the precision matrix D + U U^T. 0: diagonal.
        num_couplings: Number of coupling layers of the flow (frmdn).
        conditional: Whether to condition the flow on the hidden state (frmdn).
        spline: Whether to use rational-quadratic spline couplings instead of affine ones (frmdn).
        full: Whether to use full precision matrices. Needs rank 0.
        num_layers: Number of recurrent layers.
        latent_targets: Training targets: "sample" (drawn from the VAE's posterior) or "mean" (its mean).
        reward_weight: Weight of the reward loss; the latent loss has weight 1. A short training with a weight above 1
            learns rare rewards.
        pad_episode_ends: Whether to pad sequences at the ends of episodes, so that the last steps are sampled as often as
            all others. Without padding the memory predicts terminations less often than they happen.
        terminate_on_stall: Whether to treat idle truncation (collect.max_idle_steps) as termination at the last reward.
        num_updates: Number of gradient steps.
        batch_size: Number of sequences in a batch.
        seq_len: Number of steps in a sequence.
        learning_rate: Peak learning rate.
        patience: Number of validations without a lower validation loss after which training stops. None: never.
        dtype: Floating-point type of training: "float32" or "bfloat16" (faster where the hardware supports it).
    """

    model: Literal["frmdn", "rmdn"] = common("frmdn")
    hidden_size: int = common(256)
    num_components: int = 5
    rank: int = 0
    num_couplings: int = 2
    conditional: bool = False
    spline: bool = False
    full: bool = False
    num_layers: int = 1
    latent_targets: Literal["sample", "mean"] = "sample"
    reward_weight: float = 1.0
    pad_episode_ends: bool = False
    terminate_on_stall: bool = False
    num_updates: int = common(10_000)
    batch_size: int = 32
    seq_len: int = 32
    learning_rate: float = 1e-3
    patience: int | None = 20
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class ControllerConfig:
    """Inputs and size of the controller.

    Args:
        inputs: Inputs of the controller: "z+h" (latent and hidden state) or "z" (latent only).
        hidden_units: Number of tanh units in its hidden layer. 0: a linear controller.
    """

    inputs: Literal["z", "z+h"] = "z+h"
    hidden_units: int = 0


@dataclass(frozen=True)
class DreamConfig:
    """Evolution in dreams.

    Args:
        generations: Number of generations. 0: no evolution in dreams.
        population: Number of members in a generation.
        num_rollouts: Number of dreams for each member.
        horizon: Maximum number of steps of a dream.
        temperature: Sampling temperature of the memory. Above 1, dreams are less certain and harder to exploit.
        termination_hazard_ratio: Factor on the hazard of termination: survival probability q of a step becomes q ** ratio.
            Above 1, dreams terminate more often than the memory predicts, and controllers avoid terminations more.
        use_expected_continuation: Whether to weight rewards by the probability of no earlier termination, instead of
            sampling terminations. Returns have the same mean and less variance.
        sigma: Initial step size (standard deviation) of the search, in units of its coordinates.
        sigma_decay: Factor on the step size after each generation, on top of the adaptation by CMA-ES.
        whiten: Whether to search in whitened coordinates: along the principal components of the controller's inputs,
            scaled to unit variance.
        mean_window: Window of the exponential average of the distribution mean that is kept, in generations. 0: the last
            mean is kept.
    """

    generations: int = common(60)
    population: int = common(64)
    num_rollouts: int = 16
    horizon: int = common(300)
    temperature: float = common(1.15)
    termination_hazard_ratio: float = 1.0
    use_expected_continuation: bool = False
    sigma: float = 0.1
    sigma_decay: float = 1.0
    whiten: bool = False
    mean_window: int = 0


@dataclass(frozen=True)
class GameConfig:
    """Evolution in the real environment.

    Args:
        generations: Number of generations. 0: no evolution in the environment.
        population: Number of members in a generation.
        episodes: Number of episodes for each member; all members use the same seeds.
        max_idle_steps: Number of steps without a positive reward after which an episode is truncated. None: never.
        max_steps: Maximum number of steps of an episode. None: no limit.
        sigma: Initial step size (standard deviation) of the search, in units of its coordinates.
        sigma_decay: Factor on the step size after each generation, on top of the adaptation by CMA-ES.
        whiten: Whether to search in whitened coordinates: along the principal components of the controller's inputs,
            scaled to unit variance.
        eval_every: Number of generations between evaluations of the distribution mean on fresh seeds.
        eval_episodes: Number of episodes of an evaluation.
        target_return: Mean return of an evaluation at which evolution stops. None: never.
        envs_per_worker: Number of environments that a worker process steps in lockstep.
        init_from: Initial controller: "zeros", "dream" (the controller evolved in dreams), the file of a controller, or the
            folder of an agent, which is first copied by behavior cloning onto this run's world model.
        mean_window: Window of the exponential average of the distribution mean, in generations. The average is evaluated
            beside the mean and kept where it is better. 0: no average.
        num_eval_candidates: Number of best members of a generation that are evaluated beside the mean and kept where they
            are better.
        normalize_episodes: Whether to standardize the returns of each episode and state reset before members are compared,
            so that all have the same weight.
        eval_patience: Number of evaluations without a better one after which evolution stops. None: never.
        min_sigma: Step size below which evolution stops.
        num_state_resets: Number of extra episodes for each member that start from states of the generation's best
            episodes. Only for environments that can save their state (Super Mario Bros, CarRacing).
        reset_horizon: Maximum number of steps after a state reset.
        hard_episode_candidates: Number of candidate episodes. The distribution mean plays all of them; the population is
            evaluated on the ones with the lowest return. 0: no selection of episodes.
    """

    generations: int = common(100)
    population: int = common(32)
    episodes: int = common(3)
    max_idle_steps: int | None = None
    max_steps: int | None = None
    sigma: float = 0.1
    sigma_decay: float = 1.0
    whiten: bool = False
    eval_every: int = 10
    eval_episodes: int = 16
    target_return: float | None = None
    envs_per_worker: int = 8
    init_from: str = common("zeros")
    mean_window: int = 0
    normalize_episodes: bool = False
    num_eval_candidates: int = 0
    eval_patience: int | None = None
    min_sigma: float = 0.0
    num_state_resets: int = 0
    reset_horizon: int = 40
    hard_episode_candidates: int = 0


@dataclass(frozen=True)
class LoopConfig:
    """Settings of one iteration of collection, training and evolution in dreams.

    Args:
        episodes: Number of new episodes without exploration, and of new episodes with exploration.
        action_noise: Exploration noise on actions: the standard deviation for Box actions, the probability of a random
            action for discrete ones.
        param_noise: Standard deviation of exploration noise on the controller's parameters, drawn once for each episode.
            The next memory learns from it what similar controllers do in the environment.
        memory_updates: Number of gradient steps that continue the training of the last iteration's memory. None: train a
            new memory from scratch.
        vae_updates: Number of gradient steps that continue the training of the VAE on all frames. 0: the VAE
            stays fixed.
        init_from: Initial controller: "zeros", "last" (of the last iteration), or "best" (of the iteration with the highest
            mean return so far). With "best", the agent keeps the memory of that iteration without further training,
            and only the ensemble is trained: for a run that began with "last".
        recent_episodes: Number of newest episodes that dreams start from. None: all episodes.
        recent_fraction: Fraction of the memory's training data from these newest episodes. 0: all steps have equal weight.
        initial_state_fraction: Fraction of dreams that start at the first state of an episode; the others start at any
            state.
        ensemble_size: Number of memories in the ensemble. 1: dreams use the agent's own memory. Above 1: each dream uses
            one member of an ensemble of other memories, and the agent's own memory computes the hidden state.
    """

    episodes: int = 20
    action_noise: float = 0.2
    param_noise: float = 0.0
    memory_updates: int | None = None
    vae_updates: int = 0
    init_from: Literal["zeros", "last", "best"] = "zeros"
    recent_episodes: int | None = None
    recent_fraction: float = 0.0
    initial_state_fraction: float = 0.25
    ensemble_size: int = 1


@dataclass(frozen=True)
class EvalConfig:
    """Final evaluation, on the official environment and on fresh seeds.

    Args:
        episodes: Number of episodes for each controller.
        seed: Environment seed of the first episode; training never uses these seeds.
        max_steps: Maximum number of steps of an episode, for environments that never end. None: no limit.
    """

    episodes: int = common(100)
    seed: int = 10_000
    max_steps: int | None = None


@dataclass(frozen=True)
class RunConfig:
    """Settings of all stages.

    Args:
        env: Id of the environment of collection and evolution, as envs.make takes it. CarRacing stands for FastCarRacing,
            unless eval_env is set.
        eval_env: Id of the environment of the final evaluation. None: CarRacing for FastCarRacing, else the same as env.
        env_options: Arguments of envs.make, such as action_repeat. They replace all of the preset's.
        eval_env_options: Arguments of envs.make in the final evaluation, on top of env_options.
        seed: Random seed of all stages.
        workers: Number of processes that step environments.
        backend: Where worker processes run: "loky" (this machine), "ray" (a Ray cluster) or "ray://HOST:PORT".
        iterations: Number of iterations of evolving in dreams, playing the new controller, and training the memory on all
            episodes. 0: evolve in dreams once.
        iterate: One iteration (these settings and those of dream may change between iterations)
        collect: Collection of real episodes
        vae: Training of the VAE
        memory: Training of the memory
        controller: Inputs and size of the controller
        dream: Evolution in dreams
        game: Evolution in the real environment
        eval: Final evaluation, on the official environment and on fresh seeds
    """

    env: str
    eval_env: str | None = None
    env_options: dict[str, Any] = field(default_factory=dict, metadata={"common": True})
    eval_env_options: dict[str, Any] = field(default_factory=dict)
    seed: int = common(1)
    workers: int = common(2)
    backend: str = "loky"
    iterations: int = common(0)
    iterate: LoopConfig = field(default_factory=LoopConfig)
    collect: CollectConfig = field(default_factory=CollectConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    controller: ControllerConfig = field(default_factory=ControllerConfig)
    dream: DreamConfig = field(default_factory=DreamConfig)
    game: GameConfig = field(default_factory=GameConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    @property
    def rollout_env(self) -> str:
        """Id of the environment of collection and evolution."""
        return self.env if self.eval_env else FAST.get(self.env, self.env)

    @property
    def evaluation_env(self) -> str:
        """Id of the environment of the final evaluation."""
        return self.eval_env or OFFICIAL.get(self.env, self.env)


def training(settings: Any) -> dict[str, Any]:
    """Return the arguments of `worldmodel.fit` among the settings of a training."""
    return {
        "num_updates": settings.num_updates,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "dtype": settings.dtype,
        "patience": settings.patience,
    }
