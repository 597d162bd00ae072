"""Every setting of a run, stage by stage, with the defaults of the ``standard`` preset.

The command line turns these dataclasses into flags and YAML; a run folder keeps the resolved values in ``config.yaml``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from worldmodel.migration import TRAINING_SETTINGS, renamed

FAST = {"CarRacing": "FastCarRacing", "CarRacing-v3": "FastCarRacing"}
"""Games with a fast twin: the same physics and rewards, drawn another way. Collection and evolution play the twin."""
OFFICIAL = {"FastCarRacing": "CarRacing"}
"""Scores always come from the official environment, whatever was trained in."""
DREAMS = 64
"""Dreams in which an iteration measures its controller's return, with luck that evolution did not have."""
Preset = Literal["quick", "standard", "paper"]
Covariance = Literal["auto", "full", "diagonal"]


@dataclass(frozen=True)
class Collecting:
    """Real episodes to learn from.

    Args:
        episodes: episodes to collect.
        min_steps: Minimum number of steps: more episodes are collected where they are short. None: no minimum.
        policy: "smooth" (a random walk through the actions), "uniform" (independent random actions), or the folder of
            an agent; several with commas between: each episode is played by one of them.
        max_steps: cut an episode after this many steps; None: when the environment ends it.
        patience: cut an episode after this many steps without a reward above zero; None: never.
        exploration: noise on an agent's actions, so that its episodes differ.
    """

    episodes: int = 200
    min_steps: int | None = None
    policy: str = "smooth"
    max_steps: int | None = None
    patience: int | None = None
    exploration: float = 0.1


@dataclass(frozen=True)
class Seeing:
    """Training of the VAE.

    Args:
        latent: latent dimensions.
        free_bits: nats of KL divergence per dimension that cost nothing.
        emphasis: how much more an error costs in the lowest eighth of the picture, where small instruments may be; None: 16
            where CarRacing shows its HUD, else 1.
        updates: gradient steps.
        batch: frames a step.
        lr: peak learning rate.
        patience: stop after this many checks without a better held-out loss; None: never.
        precision: "float32", or "bfloat16", which is faster where the machine has it.
    """

    latent: int = 32
    free_bits: float = 0.5
    emphasis: float | None = None
    updates: int = 10_000
    batch: int = 64
    lr: float = 1e-3
    patience: int | None = 20
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Remembering:
    """Training of the memory.

    Args:
        model: "frmdn" (with a normalizing flow) or "rmdn" (without).
        hidden: width of the recurrent network.
        mixtures: components of the Gaussian mixture.
        rank: R of the precision D + U U^T.
        couplings: affine couplings of the flow (frmdn).
        conditional: whether the flow sees the hidden state (frmdn).
        spline: whether the couplings are rational-quadratic splines (frmdn).
        full: whether precisions are full matrices.
        shared: whether U is one for each component, instead of one for each component and time.
        cell: "lstm" or "gru".
        layers: recurrent layers.
        targets: next latents drawn from the posterior ("sample") or its mean ("mean").
        reward_weight: Weight of the reward's loss beside the latent's. Above 1, a short training learns rare rewards.
        overhang: whether windows may overhang the ends of episodes, so that the last steps are in as many as all others:
            without it terminations are predicted less often than they happen.
        stalls_end: whether an episode that was cut for want of patience when it was collected ended, for the memory, with its
            last reward: dreams then end where the game was lost.
        updates: gradient steps.
        batch: sequences a step.
        length: steps of a sequence.
        lr: peak learning rate.
        patience: stop after this many checks without a better held-out loss; None: never.
        precision: "float32", or "bfloat16", which is faster where the machine has it.
    """

    model: Literal["frmdn", "rmdn"] = "frmdn"
    hidden: int = 256
    mixtures: int = 5
    rank: int = 0
    couplings: int = 2
    conditional: bool = False
    spline: bool = False
    full: bool = False
    shared: bool = False
    cell: Literal["lstm", "gru"] = "lstm"
    layers: int = 1
    targets: Literal["sample", "mean"] = "sample"
    reward_weight: float = 1.0
    overhang: bool = False
    stalls_end: bool = False
    updates: int = 10_000
    batch: int = 32
    length: int = 32
    lr: float = 1e-3
    patience: int | None = 20
    precision: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Controlling:
    """What the controller sees, and its shape.

    Args:
        sees: "both" (latent and hidden) or "latent" (the latent alone: what is in view, without memory).
        units: tanh units between what it sees and its actions; 0: a linear map.
    """

    sees: Literal["both", "latent"] = "both"
    units: int = 0


@dataclass(frozen=True)
class DreamEvolving:
    """Evolution inside the dream.

    Args:
        generations: generations; 0 leaves this stage out.
        population: members of a generation.
        dreams: dreams for each member.
        horizon: steps of a dream.
        temperature: above 1 makes the dream less certain, and harder to exploit.
        hazard_ratio: above 1 makes dreams end more often than the memory expects (a step survived with probability q is
            survived with q ** hazard_ratio): what evolves keeps further from where lives end.
        weigh_ends: weigh rewards with the chance that the dream has not ended before, instead of drawing ends: returns have the
            same mean, and less chance in them.
        sigma: first standard deviation of the search.
        decay: the step size is multiplied by this after every generation, besides what the search makes of it.
        whiten: search along the principal components of what is seen, each on the same scale, instead of along the weights.
        antithetic: whether members are drawn in pairs, to both sides of the mean.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters.
        bounds: keep every parameter between minus this and this; None: wherever it goes.
        average: what is kept is the average of the search's mean over about so many last generations; 0: the last mean.
    """

    generations: int = 60
    population: int = 64
    dreams: int = 16
    horizon: int = 300
    temperature: float = 1.15
    hazard_ratio: float = 1.0
    weigh_ends: bool = False
    sigma: float = 0.1
    decay: float = 1.0
    whiten: bool = False
    antithetic: bool = False
    covariance: Covariance = "auto"
    bounds: float | None = None
    average: int = 0


@dataclass(frozen=True)
class GameEvolving:
    """Evolution in the real game.

    Args:
        generations: generations; 0 leaves this stage out.
        population: members of a generation.
        episodes: episodes for each member, the same for all.
        patience: give up an episode after this many steps without a reward above zero; None: never.
        max_steps: cut an episode here.
        sigma: first standard deviation of the search.
        decay: the step size is multiplied by this after every generation, besides what the search makes of it.
        whiten: search along the principal components of what is seen, each on the same scale, instead of along the weights.
        check_every: generations between tests of the mean on fresh seeds.
        check_episodes: episodes of such a test.
        target: stop when a test's mean return reaches this; None: never.
        lanes: environments that a worker steps in lockstep.
        start: where the search starts: "zeros", "dream" (the controller evolved in dreams), a controller's file, or the folder
            of an agent with another world model: what it does is first imitated on this one.
        most_episodes: let episodes grow up to so many as differences between members drown in noise; None: never.
        antithetic: whether members are drawn in pairs, to both sides of the mean.
        covariance: "full", "diagonal", or "auto": full up to 2,000 parameters.
        bounds: keep every parameter between minus this and this; None: wherever it goes.
        average: the average of the mean over about so many last generations is tested beside it, and kept where it is better.
        elite: so many of a generation's best members are tested beside the mean, and kept where they are better.
        balanced: let each episode, and each life from a moment on, count alike when members are compared.
        ranked: compare members by the share of the others that they beat, on average over the episodes; lives from moments
            on count alike.
        stale: end after so many tests without a better one; None: never.
        least_sigma: end when the step size falls below this.
        restarts: instead of these two ends, begin again at the best so far, with twice the population.
        moments: so many more lives for each member, which begin along the ways of the generation's best lives. For games
            that remember their state (Super Mario Bros, CarRacing).
        stretch: steps of such a life.
        scouted: so many episodes the members' average plays first; theirs are those of them in which it had least. 0: all
            episodes are drawn alike.
    """

    generations: int = 100
    population: int = 32
    episodes: int = 3
    patience: int | None = None
    max_steps: int | None = None
    sigma: float = 0.1
    decay: float = 1.0
    whiten: bool = False
    check_every: int = 10
    check_episodes: int = 16
    target: float | None = None
    lanes: int = 8
    start: str = "zeros"
    most_episodes: int | None = None
    antithetic: bool = False
    covariance: Covariance = "auto"
    bounds: float | None = None
    average: int = 0
    balanced: bool = False
    ranked: bool = False
    elite: int = 0
    stale: int | None = None
    least_sigma: float = 0.0
    restarts: int = 0
    moments: int = 0
    stretch: int = 40
    scouted: int = 0


@dataclass(frozen=True)
class Iterating:
    """What each iteration adds and learns.

    Args:
        episodes: episodes of the new controller as it is, and as many with exploration.
        exploration: standard deviation of noise on its Box actions, or the probability of a random choice.
        spread: standard deviation of noise on its parameters while it explores, another one in each episode: what controllers
            around it do in the game is then known to the next memory.
        memory_updates: go on with the last iteration's memory for so many updates; None: a new one from scratch.
        vae_updates: every ``vae_every`` iterations, go on with the VAE on all frames so far; 0: it stays as it is.
        vae_every: see vae_updates.
        start: where the search starts: "zeros"; "last": the controller of the iteration before; or "best": that of the
            iteration whose episodes were best so far, whose memory then stays the agent's and learns no more, while the
            worlds do: for a run that began with "last".
        newest: dreams begin in the newest so many episodes; None: in all.
        newest_share: so large a share of what memories learn from is of these newest episodes; 0: all steps count alike.
        beginnings: the share of dreams that begin where an episode begins; the others begin anywhere in one.
        worlds: memories that the dreams happen in. 1: the agent's own. More: so many others, each dream in one of them, while
            the agent's own looks on, as it does in the game.
        caution: how many standard deviations between its mean returns in several worlds a controller is marked down.
    """

    episodes: int = 20
    exploration: float = 0.2
    spread: float = 0.0
    memory_updates: int | None = None
    vae_updates: int = 0
    vae_every: int = 4
    start: Literal["zeros", "last", "best"] = "zeros"
    newest: int | None = None
    newest_share: float = 0.0
    beginnings: float = 0.25
    worlds: int = 1
    caution: float = 0.0


@dataclass(frozen=True)
class Testing:
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
class RunSettings:
    """The whole story.

    Args:
        env: the environment whose scores are reported: an id for envs.make.
        training_env: where episodes are collected and evolution plays; None: FastCarRacing for CarRacing, else the same.
        env_options: arguments of envs.make, such as action_repeat, instead of all that a preset has.
        test_options: arguments of envs.make in the final test, over env_options.
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
        test: the final test.
    """

    env: str
    training_env: str | None = None
    env_options: dict[str, Any] = field(default_factory=dict)
    test_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 1
    workers: int = 2
    backend: str = "loky"
    iterations: int = 0
    iterate: Iterating = field(default_factory=Iterating)
    collect: Collecting = field(default_factory=Collecting)
    vae: Seeing = field(default_factory=Seeing)
    memory: Remembering = field(default_factory=Remembering)
    controller: Controlling = field(default_factory=Controlling)
    dream: DreamEvolving = field(default_factory=DreamEvolving)
    game: GameEvolving = field(default_factory=GameEvolving)
    test: Testing = field(default_factory=Testing)

    @property
    def plays_in(self) -> str:
        """Where episodes are collected and evolution plays."""
        return self.training_env or FAST.get(self.env, self.env)


def training(settings: Any) -> dict[str, Any]:
    """The settings of a training, as `worldmodel.fit` takes them."""
    taken = {name: getattr(settings, name) for name in ("updates", "batch", "lr", "patience", "precision")}
    return renamed(taken, TRAINING_SETTINGS)
