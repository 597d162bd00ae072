"""The memory: a density over the next latent, plus heads for reward and termination, on one recurrent state.

Start reading at `Memory.forward` and `Memory.loss`.
"""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from worldmodel.batches import Loss, SequenceBatch, to_float32
from worldmodel.mdn_rnn import FRMDN, RMDN, State
from worldmodel.validation import validate_positive_int

REWARD_BINS, REWARD_RANGE = 63, 8.0
"""Rewards are predicted as a categorical over symexp(linspace(-8, 8)): from -2980 to 2980, finest around zero.

A squared error would spend itself on rare large rewards (the -100 of leaving CarRacing's field has a hundred times the
variance of all others); cross-entropy on bins does not, and its mean is unbiased.
"""


@runtime_checkable
class ActionSource(Protocol):
    """What knows the kind of actions: `rollouts.Store`."""

    @property
    def action_dim(self) -> int:
        """Numbers of a Box action, or choices of a discrete one."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        ...


class Prediction(NamedTuple):
    """What the memory expects of each step: the next latent's distribution, reward and termination."""

    latent: Any
    """A distribution with ``log_prob`` and ``sample``, batch (*batch,), event (latent,)."""
    reward_logits: Float[Tensor, "*batch bins"] | None
    termination_logit: Float[Tensor, "*batch"] | None


def reward_support(like: Tensor) -> Float[Tensor, "bins"]:
    """The reward each bin stands for: symexp(x) = sign(x) (exp|x| - 1) on an even grid."""
    if like.is_meta:  # exp there imports torch's compiler: over a second
        return like.new_empty(REWARD_BINS)
    grid = torch.linspace(-REWARD_RANGE, REWARD_RANGE, REWARD_BINS, dtype=torch.float32, device=like.device)
    return (grid.sign() * torch.expm1(grid.abs())).to(like.dtype)


def _two_hot(
    reward: Float[Tensor, "*batch"], support: Float[Tensor, "bins"]
) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The bin above each reward, and that bin's share of the weight; the bin below has the rest (two-hot).

    References:
        Hafner et al., Mastering Diverse Domains through World Models, 2023, https://arxiv.org/abs/2301.04104 (eq. 9).
    """
    reward = reward.clamp(support[0], support[-1])
    upper = torch.searchsorted(support, reward.contiguous()).clamp(1, REWARD_BINS - 1)
    low, high = support[upper - 1], support[upper]
    return upper, (reward - low) / (high - low)


class Memory(nn.Module):
    """Predict the next latent, the reward and the termination from latents and actions so far.

    Args:
        density: an `RMDN` or `FRMDN` whose inputs are a latent and an action, and whose outputs are the next latent.
        reward: whether to predict rewards.
        termination: whether to predict terminations.
        reward_weight: Weight of the reward's loss beside the latent's. Rewards are rare in many games, and their loss is a
            hundredth of the latent's: a training of a few hundred updates learns them only with a weight above 1.

    Raises:
        ValueError: ``density`` takes no action, or ``reward_weight`` is not positive.

    Example:
        >>> memory = Memory(FRMDN(input_size=35, output_size=32))
        >>> prediction, state = memory(torch.zeros(2, 7, 32), torch.zeros(2, 7, 3))
        >>> prediction.latent.log_prob(torch.zeros(2, 7, 32)).shape
        torch.Size([2, 7])
    """

    def __init__(
        self, density: RMDN | FRMDN, reward: bool = True, termination: bool = True, reward_weight: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < reward_weight < math.inf:
            raise ValueError(f"reward_weight must be above zero and finite, got {reward_weight}")
        if density.input_size <= density.output_size:
            raise ValueError(
                f"density must take a latent and an action: input_size ({density.input_size}) must exceed output_size "
                f"({density.output_size}) by the number of actions"
            )
        self.density = density
        self.reward_weight = float(reward_weight)
        self.support: Tensor
        self.register_buffer("support", reward_support(density.initial(1).hidden), persistent=False)
        self.reward_head = zero_init(nn.Linear(density.hidden_size, REWARD_BINS)) if reward else None
        self.termination_head = zero_init(nn.Linear(density.hidden_size, 1)) if termination else None

    @classmethod
    def for_store(
        cls,
        store: ActionSource,
        density: type[RMDN] | type[FRMDN] = FRMDN,
        *,
        latent_dim: int = 32,
        reward: bool = True,
        termination: bool = True,
        reward_weight: float = 1.0,
        **sizes: Any,
    ) -> "Memory":
        """Build a memory for the actions of a store.

        Args:
            store: the rollouts (`rollouts.Store`).
            density: the class of the density: `FRMDN` or `RMDN`.
            latent_dim: latent dimensions of the VAE.
            reward: whether to predict rewards.
            termination: whether to predict terminations.
            reward_weight: Weight of the reward's loss.
            sizes: more arguments of the density, such as ``hidden_size`` and ``num_components``.
        """
        validate_positive_int(latent_dim=latent_dim)
        if taken := [name for name in ("input_size", "output_size") if name in sizes]:
            raise ValueError(f"{taken[0]} follows from store and latent_dim, got {sizes[taken[0]]}")
        return cls(density(latent_dim + store.action_dim, latent_dim, **sizes), reward, termination, reward_weight)

    def __repr__(self) -> str:
        """The call that builds it."""
        absent = [
            name
            for name, head in (("reward", self.reward_head), ("termination", self.termination_head))
            if head is None
        ]
        weighted = [] if self.reward_weight == 1 else [f"reward_weight={self.reward_weight:g}"]
        return f"Memory({', '.join([repr(self.density), *(f'{name}=False' for name in absent), *weighted])})"

    @property
    def latent_dim(self) -> int:
        """Latent dimensions."""
        return self.density.output_size

    @property
    def action_dim(self) -> int:
        """Action numbers (a discrete action counts one per choice)."""
        return self.density.input_size - self.density.output_size

    @property
    def hidden_size(self) -> int:
        """Size of the hidden state that controllers see."""
        return self.density.hidden_size

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this module again."""
        return {
            "density": type(self.density).__name__,
            **self.density.config,
            "reward": self.reward_head is not None,
            "termination": self.termination_head is not None,
            **({} if self.reward_weight == 1 else {"reward_weight": self.reward_weight}),
        }

    def initial(self, batch: int) -> State:
        """The recurrent state before anything happened."""
        return self.density.initial(batch)

    def unroll(
        self,
        latent: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time actions"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time hidden"], State]:
        """Advance the recurrent state alone: the hidden state after each (latent, action), and the last state.

        Raises:
            ValueError: the memory was made for other sizes.
        """
        if (latent.shape[-1], action.shape[-1]) != (self.latent_dim, self.action_dim):
            raise ValueError(
                f"the memory takes {self.latent_dim} latents and {self.action_dim} actions, "
                f"got {latent.shape[-1]} and {action.shape[-1]}"
            )
        return self.density.unroll(torch.cat((latent, action), dim=-1), state)

    def predict(self, hidden: Float[Tensor, "*batch hidden"]) -> Prediction:
        """What is expected after ``hidden``."""
        return Prediction(
            self.density.distribution(hidden),
            None if self.reward_head is None else to_float32(self.reward_head(hidden)),
            None if self.termination_head is None else to_float32(self.termination_head(hidden))[..., 0],
        )

    def forward(
        self,
        latent: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time actions"],
        state: State | None = None,
    ) -> tuple[Prediction, State]:
        """Predict, at each time, what follows (latent, action) there."""
        hidden, state = self.unroll(latent, action, state)
        return self.predict(hidden), state

    def loss(self, batch: SequenceBatch, generator: Generator | None = None) -> Loss:
        """Mean over the steps that happened of: -log p(next latent) (nats a frame), reward and termination losses."""
        prediction, _ = self(batch.latent, batch.action)
        count = batch.mask.sum().clamp(min=1)
        seen = batch.mask > 0

        def mean(values: Float[Tensor, "batch time"]) -> Float[Tensor, ""]:
            return torch.where(seen, values, 0).sum() / count

        # Padding is zeroed before the density sees it: finite numbers in it reach neither the loss nor a gradient.
        target = torch.where(seen[..., None], batch.next_latent, 0)
        parts = {"nll": mean(-prediction.latent.log_prob(target))}
        if prediction.reward_logits is not None:
            upper, share = _two_hot(torch.where(seen, batch.reward, 0), self.support)
            logs = log_softmax(prediction.reward_logits, dim=-1)
            below, above = (logs.gather(-1, (upper + step)[..., None])[..., 0] for step in (-1, 0))
            parts["reward"] = mean(-(below + share * (above - below)))
        if prediction.termination_logit is not None:
            ended = torch.where(seen, batch.terminated, 0)
            parts["termination"] = mean(
                binary_cross_entropy_with_logits(prediction.termination_logit, ended, reduction="none")
            )
        weighted = [self.reward_weight * part if name == "reward" else part for name, part in parts.items()]
        return Loss(torch.stack(weighted).sum(), {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def init_from_data(self, batch: SequenceBatch) -> None:
        """Begin at the data's marginals: `worldmodel.fit` calls it with the first batch of a new training.

        The density begins at the latents' mean and standard deviation, the reward head at the distribution of rewards (with
        one step's weight spread over all bins), and the termination head at the rate of terminations (with half a step for
        each outcome).
        """
        happened = batch.mask > 0
        seen = batch.next_latent[happened]
        if len(seen) < 2:
            return
        self.density.init_from_statistics(seen.mean(dim=0), seen.std(dim=0))
        if self.reward_head is not None:
            upper, share = _two_hot(batch.reward[happened], self.support)
            weight = self.support.new_full((REWARD_BINS,), 1 / REWARD_BINS)
            weight.index_add_(0, upper, share).index_add_(0, upper - 1, 1 - share)
            self.reward_head.bias.copy_((weight / weight.sum()).log())
        if self.termination_head is not None:
            ended = batch.terminated[happened].sum() + 0.5
            self.termination_head.bias.copy_((ended / (len(seen) + 1)).logit())

    def expected_reward(self, logits: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
        """The mean reward under the predicted bins."""
        return logits.softmax(dim=-1) @ self.support


def zero_init(layer: nn.Linear) -> nn.Linear:
    """Start a head at the uniform prediction, whatever the hidden state."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
