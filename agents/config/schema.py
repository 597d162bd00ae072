"""Every setting of a run, stage by stage, with the defaults of the ``standard`` preset.

The command line turns these dataclasses into flags and YAML; a run folder keeps the resolved values in ``config.yaml``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

FAST = {"CarRacing": "FastCarRacing", "CarRacing-v3": "FastCarRacing"}
"""Games with a fast twin: the same physics and rewards, drawn another way. Collection and evolution play the twin."""
OFFICIAL = {"FastCarRacing": "CarRacing"}
"""Scores always come from the official environment, whatever was trained in."""
DREAMS = 64
"""Dreams in which an iteration measures its controller's return, with luck that evolution did not have."""
Preset = Literal["quick", "standard", "paper"]
Covariance = Literal["auto", "full", "diagonal"]


@dataclass(frozen=True)
class CollectConfig:
    """Real episodes to learn from.

    Args:
        episodes: episodes to collect.
        min_steps: Minimum number of steps: more episodes are collected where they are short. None: no minimum.
        policy: "smooth" (a random walk through the actions), "uniform" (independent random actions), or the folder of
            an agent; several with commas between: each episode is played by one of them.
        max_steps: cut an episode after this many steps; None: when the environment ends it.
        max_idle_steps: cut an episode after this many steps without a reward above zero; None: never.
        action_noise: noise on an agent's actions, so that its episodes differ.
    """

    episodes: int = 200
    min_steps: int | None = None
    policy: str = "smooth"
    max_steps: int | None = None
    max_idle_steps: int | None = None
    action_noise: float = 0.1


@dataclass(frozen=True)
class VAEConfig:
    """Training of the VAE.

    Args:
        latent_dim: latent dimensions.
        free_bits: nats of KL divergence per dimension that cost nothing.
        hud_loss_weight: how much more an error costs in the lowest eighth of the picture, where small instruments may be;
            None: 16
            where CarRacing shows its HUD, else 1.
        num_updates: gradient steps.
        batch_size: frames a step.
        learning_rate: peak learning rate.
        patience: stop after this many checks without a better held-out loss; None: never.
        dtype: "float32", or "bfloat16", which is faster where the machine has it.
    """

    latent_dim: int = 32
    free_bits: float = 0.5
    hud_loss_weight: float | None = None
    num_updates: int = 10_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    patience: int | None = 20
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class MemoryConfig:
    """Training of the memory.

    Args:
        model: "frmdn" (with a normalizing flow) or "rmdn" (without).
        hidden_size: width of the recurrent network.
        num_components: components of the Gaussian mixture.
        rank: R of the precision D + U U^T.
        num_couplings: affine couplings of the flow (frmdn).
        conditional: whether the flow sees the hidden state (frmdn).
        spline: whether the couplings are rational-quadratic splines (frmdn).
        full: whether precisions are full matrices.
        shared: whether U is one for each component, instead of one for each component and time.
        cell: "lstm" or "gru".
        num_layers: recurrent layers.
        latent_targets: next latents drawn from the posterior ("sample") or its mean ("mean").
        reward_weight: Weight of the reward's loss beside the latent's. Above 1, a short training learns rare rewards.
        pad_episode_ends: whether windows may overhang the ends of episodes, so that the last steps are in as many as all
            others:
            without it terminations are predicted less often than they happen.
        terminate_on_stall: whether an episode that was cut for want of patience when it was collected ended, for the
            memory, with its
            last reward: dreams then end where the game was lost.
        num_updates: gradient steps.
        batch_size: sequences a step.
        seq_len: steps of a sequence.
        learning_rate: peak learning rate.
        patience: stop after this many checks without a better held-out loss; None: never.
        dtype: "float32", or "bfloat16", which is faster where the machine has it.
    """

    model: Literal["frmdn", "rmdn"] = "frmdn"
    hidden_size: int = 256
    num_components: int = 5
    rank: int = 0
    num_couplings: int = 2
    conditional: bool = False
    spline: bool = False
    full: bool = False
    shared: bool = False
    cell: Literal["lstm", "gru"] = "lstm"
    num_layers: int = 1
    latent_targets: Literal["sample", "mean"] = "sample"
    reward_weight: float = 1.0
    pad_episode_ends: bool = False
    terminate_on_stall: bool = False
    num_updates: int = 10_000
    batch_size: int = 32
    seq_len: int = 32
    learning_rate: float = 1e-3
    patience: int | None = 20
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class ControllerConfig:
    """What the controller sees, and its shape.

    Args:
        inputs: What the controller takes: "z+h" (latent and hidden state) or "z" (latent only).
        hidden_units: tanh units between what it sees and its actions; 0: a linear map.
    """

    inputs: Literal["z", "z+h"] = "z+h"
    hidden_units: int = 0


@dataclass(frozen=True)
class DreamConfig:
    """Evolution inside the dream.

    Args:
        generations: generations; 0 leaves this stage out.
        population: members of a generation.
        num_rollouts: dreams for each member.
        horizon: steps of a dream.
        temperature: above 1 makes the dream less certain, and harder to exploit.
        termination_hazard_ratio: above 1 makes dreams end more often than the memory expects (a step survived with
            probability q is
            survived with q ** hazard_ratio): what evolves keeps further from where lives end.
        use_expected_continuation: weigh rewards with the chance that the dream has not ended before, instead of drawing
            ends: returns have the
            same mean, and less chance in them.
        sigma: first standard deviation of the search.
        sigma_decay: the step size is multiplied by this after every generation, besides what the search makes of it.
        whiten: search along the principal components of what is seen, each on the same scale, instead of along the weights.
        antithetic: whether members are drawn in pairs, to both sides of the mean.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters.
        bounds: keep every parameter between minus this and this; None: wherever it goes.
        mean_window: what is kept is the average of the search's mean over about so many last generations; 0: the last mean.
    """

    generations: int = 60
    population: int = 64
    num_rollouts: int = 16
    horizon: int = 300
    temperature: float = 1.15
    termination_hazard_ratio: float = 1.0
    use_expected_continuation: bool = False
    sigma: float = 0.1
    sigma_decay: float = 1.0
    whiten: bool = False
    antithetic: bool = False
    covariance: Covariance = "auto"
    bounds: float | None = None
    mean_window: int = 0


@dataclass(frozen=True)
class GameConfig:
    """Evolution in the real game.

    Args:
        generations: generations; 0 leaves this stage out.
        population: members of a generation.
        episodes: episodes for each member, the same for all.
        max_idle_steps: give up an episode after this many steps without a reward above zero; None: never.
        max_steps: cut an episode here.
        sigma: first standard deviation of the search.
        sigma_decay: the step size is multiplied by this after every generation, besides what the search makes of it.
        whiten: search along the principal components of what is seen, each on the same scale, instead of along the weights.
        eval_every: generations between tests of the mean on fresh seeds.
        eval_episodes: episodes of such a test.
        target_return: stop when a test's mean return reaches this; None: never.
        envs_per_worker: environments that a worker steps in lockstep.
        init_from: where the search starts: "zeros", "dream" (the controller evolved in dreams), a controller's file, or
            the folder
            of an agent with another world model: what it does is first imitated on this one.
        max_episodes: let episodes grow up to so many as differences between members drown in noise; None: never.
        antithetic: whether members are drawn in pairs, to both sides of the mean.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters.
        bounds: keep every parameter between minus this and this; None: wherever it goes.
        mean_window: the average of the mean over about so many last generations is tested beside it, and kept where it is
            better.
        num_eval_candidates: so many of a generation's best members are tested beside the mean, and kept where they are better.
        normalize_episodes: let each episode, and each life from a moment on, count alike when members are compared.
        ranked: compare members by the share of the others that they beat, on average over the episodes; lives from moments
            on count alike.
        eval_patience: end after so many tests without a better one; None: never.
        min_sigma: end when the step size falls below this.
        restarts: instead of these two ends, begin again at the best so far, with twice the population.
        num_state_resets: so many more lives for each member, which begin along the ways of the generation's best lives.
            For games
            that remember their state (Super Mario Bros, CarRacing).
        reset_horizon: steps of such a life.
        hard_episode_candidates: so many episodes the members' average plays first; theirs are those of them in which it
            had least. 0: all
            episodes are drawn alike.
    """

    generations: int = 100
    population: int = 32
    episodes: int = 3
    max_idle_steps: int | None = None
    max_steps: int | None = None
    sigma: float = 0.1
    sigma_decay: float = 1.0
    whiten: bool = False
    eval_every: int = 10
    eval_episodes: int = 16
    target_return: float | None = None
    envs_per_worker: int = 8
    init_from: str = "zeros"
    max_episodes: int | None = None
    antithetic: bool = False
    covariance: Covariance = "auto"
    bounds: float | None = None
    mean_window: int = 0
    normalize_episodes: bool = False
    ranked: bool = False
    num_eval_candidates: int = 0
    eval_patience: int | None = None
    min_sigma: float = 0.0
    restarts: int = 0
    num_state_resets: int = 0
    reset_horizon: int = 40
    hard_episode_candidates: int = 0


@dataclass(frozen=True)
class LoopConfig:
    """What each iteration adds and learns.

    Args:
        episodes: episodes of the new controller as it is, and as many with exploration.
        action_noise: standard deviation of noise on its Box actions, or the probability of a random choice.
        param_noise: standard deviation of noise on its parameters while it explores, another one in each episode: what
            controllers
            around it do in the game is then known to the next memory.
        memory_updates: go on with the last iteration's memory for so many updates; None: a new one from scratch.
        vae_updates: every ``vae_every`` iterations, go on with the VAE on all frames so far; 0: it stays as it is.
        vae_every: see vae_updates.
        init_from: where the search starts: "zeros"; "last": the controller of the iteration before; or "best": that of the
            iteration whose episodes were best so far, whose memory then stays the agent's and learns no more, while the
            worlds do: for a run that began with "last".
        recent_episodes: dreams begin in the newest so many episodes; None: in all.
        recent_fraction: so large a share of what memories learn from is of these newest episodes; 0: all steps count alike.
        initial_state_fraction: the share of dreams that begin where an episode begins; the others begin anywhere in one.
        ensemble_size: memories that the dreams happen in. 1: the agent's own. More: so many others, each dream in one of
            them, while
            the agent's own looks on, as it does in the game.
        disagreement_penalty: how many standard deviations between its mean returns in several worlds a controller is
            marked down.
    """

    episodes: int = 20
    action_noise: float = 0.2
    param_noise: float = 0.0
    memory_updates: int | None = None
    vae_updates: int = 0
    vae_every: int = 4
    init_from: Literal["zeros", "last", "best"] = "zeros"
    recent_episodes: int | None = None
    recent_fraction: float = 0.0
    initial_state_fraction: float = 0.25
    ensemble_size: int = 1
    disagreement_penalty: float = 0.0


@dataclass(frozen=True)
class EvalConfig:
    """The test at the end, on the official environment and fresh seeds.

    Args:
        episodes: episodes for each controller.
        seed: first environment seed; never used in training.
        max_steps: cut an episode here (for environments that never end).
    """

    episodes: int = 100
    seed: int = 10_000
    max_steps: int | None = None


@dataclass(frozen=True)
class RunConfig:
    """The whole story.

    Args:
        env: the environment whose scores are reported: an id for envs.make.
        training_env: where episodes are collected and evolution plays; None: FastCarRacing for CarRacing, else the same.
        env_options: arguments of envs.make, such as action_repeat, instead of all that a preset has.
        eval_env_options: arguments of envs.make in the final test, over env_options.
        seed: of everything.
        workers: processes that play the game.
        backend: where they are: "loky" (this machine), "ray" (a Ray cluster) or "ray://HOST:PORT".
        iterations: how often to evolve in dreams, play the new controller, and learn the memory anew from all episodes;
            0: evolve in dreams once.
        iterate: what an iteration plays and learns; as `dream`, the next iteration of a run may have it otherwise.
        collect: real episodes.
        vae: the eye.
        memory: the memory.
        controller: what evolves.
        dream: evolution in dreams.
        game: evolution in the real game.
        eval: the final test.
    """

    env: str
    training_env: str | None = None
    env_options: dict[str, Any] = field(default_factory=dict)
    eval_env_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    workers: int = 2
    backend: str = "loky"
    iterations: int = 0
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
        """Where episodes are collected and evolution plays."""
        return self.training_env or FAST.get(self.env, self.env)


def training(settings: Any) -> dict[str, Any]:
    """The settings of a training, as `worldmodel.fit` takes them."""
    return {
        "num_updates": settings.num_updates,
        "batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
        "dtype": settings.dtype,
        "patience": settings.patience,
    }
