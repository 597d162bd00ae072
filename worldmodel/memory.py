"""Predict the next latent, the reward and the termination from one recurrent state.

Start reading at `Memory.forward` and `Memory.loss`.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax

from worldmodel.batches import Loss, SequenceBatch, to_float32
from worldmodel.mdn_rnn import FRMDN, RMDN, State
from worldmodel.validation import above_zero, validate_positive_int

REWARD_BINS, REWARD_RANGE = 63, 8.0
"""Rewards are predicted as a categorical over symexp(linspace(-8, 8)): from -2980 to 2980, finest around zero.

Rare large rewards dominate a squared error: the -100 for leaving CarRacing's field has a hundred times the variance of all
others. They do not dominate the cross-entropy on bins, and the mean of the bins is unbiased.
"""


@runtime_checkable
class ActionSource(Protocol):
    """An object that describes an action space, such as `rollouts.Store`."""

    @property
    def action_dim(self) -> int:
        """Size of a Box action, or number of discrete choices."""
        ...

    @property
    def discrete(self) -> bool:
        """Whether actions are discrete choices."""
        ...


class Prediction(NamedTuple):
    """Predicted distributions of the next latent, the reward and the termination."""

    latent: Any
    """Distribution with ``log_prob`` and ``sample``; batch shape (*batch,), event shape (latent,)."""
    reward_logits: Float[Tensor, "*batch bins"] | None
    termination_logit: Float[Tensor, "*batch"] | None


def reward_support(like: Tensor) -> Float[Tensor, "bins"]:
    """Return the reward of each bin: symexp(x) = sign(x) (exp|x| - 1) on an even grid."""
    if like.is_meta:  # exp on the meta device imports torch's compiler, which takes over a second
        return like.new_empty(REWARD_BINS)
    grid = torch.linspace(-REWARD_RANGE, REWARD_RANGE, REWARD_BINS, dtype=torch.float32, device=like.device)
    return (grid.sign() * torch.expm1(grid.abs())).to(like.dtype)


def _two_hot(
    reward: Float[Tensor, "*batch"], support: Float[Tensor, "bins"]
) -> tuple[Int[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Return the index of the bin above each reward and its weight; the bin below has the rest (two-hot).

    References:
        Hafner et al., Mastering Diverse Domains through World Models, 2023, https://arxiv.org/abs/2301.04104 (eq. 9).
    """
    reward = reward.clamp(support[0], support[-1])
    upper = torch.searchsorted(support, reward.contiguous()).clamp(1, REWARD_BINS - 1)
    low, high = support[upper - 1], support[upper]
    return upper, (reward - low) / (high - low)


class Memory(nn.Module):
    """Predict the next latent, the reward and the termination from past latents and actions.

    Args:
        density: Network of the next latent's distribution. Its inputs are a latent and an action; its output is a latent.
        reward: Whether to predict rewards.
        termination: Whether to predict terminations.
        reward_weight: Weight of the reward loss relative to the latent loss. Where rewards are rare, their loss is a
            hundredth of the latent loss, and a training of a few hundred updates needs a weight above 1 to learn them.

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
        above_zero(reward_weight=reward_weight)
        if density.input_size <= density.output_size:
            raise ValueError(
                f"density must have latent and action inputs: input_size ({density.input_size}) must exceed output_size "
                f"({density.output_size}) by action_dim"
            )
        self.density = density
        self.reward_weight = float(reward_weight)
        self.support: Tensor
        self.register_buffer("support", reward_support(density.initial(1).hidden), persistent=False)
        self.reward_head = zero_init(nn.Linear(density.num_features, REWARD_BINS)) if reward else None
        self.termination_head = zero_init(nn.Linear(density.num_features, 1)) if termination else None

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
        """Build a memory for the action space of a store.

        Args:
            store: Rollouts (`rollouts.Store`).
            density: Class of the density network: `FRMDN` or `RMDN`.
            latent_dim: Number of latent dimensions of the VAE.
            reward: Whether to predict rewards.
            termination: Whether to predict terminations.
            reward_weight: Weight of the reward loss.
            sizes: Other arguments of the density network, such as ``hidden_size`` and ``num_components``.

        Raises:
            ValueError: ``latent_dim`` is invalid, or ``sizes`` sets ``input_size`` or ``output_size``.
        """
        validate_positive_int(latent_dim=latent_dim)
        if taken := [name for name in ("input_size", "output_size") if name in sizes]:
            raise ValueError(f"{taken[0]} must not be set: store and latent_dim determine it, got {sizes[taken[0]]}")
        return cls(density(latent_dim + store.action_dim, latent_dim, **sizes), reward, termination, reward_weight)

    def __repr__(self) -> str:
        """Return the constructor call."""
        absent = [
            name
            for name, head in (("reward", self.reward_head), ("termination", self.termination_head))
            if head is None
        ]
        weighted = [] if self.reward_weight == 1 else [f"reward_weight={self.reward_weight:g}"]
        return f"Memory({', '.join([repr(self.density), *(f'{name}=False' for name in absent), *weighted])})"

    @property
    def latent_dim(self) -> int:
        """Number of latent dimensions."""
        return self.density.output_size

    @property
    def action_dim(self) -> int:
        """Size of a Box action, or number of discrete choices."""
        return self.density.input_size - self.density.output_size

    @property
    def hidden_size(self) -> int:
        """Size of the hidden state."""
        return self.density.hidden_size

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that rebuild this module."""
        return {
            "density": type(self.density).__name__,
            **self.density.config,
            "reward": self.reward_head is not None,
            "termination": self.termination_head is not None,
            **({} if self.reward_weight == 1 else {"reward_weight": self.reward_weight}),
        }

    def initial(self, batch: int) -> State:
        """Return the initial recurrent state."""
        return self.density.initial(batch)

    def unroll(
        self,
        latent: Float[Tensor, "batch time latent"],
        action: Float[Tensor, "batch time actions"],
        state: State | None = None,
    ) -> tuple[Float[Tensor, "batch time features"], State]:
        """Return the features after each (latent, action), and the last recurrent state; predict nothing.

        The features are the hidden state and, with a residual density, the latent.

        Raises:
            ValueError: the last dimension of ``latent`` or ``action`` has the wrong size.
        """
        if (latent.shape[-1], action.shape[-1]) != (self.latent_dim, self.action_dim):
            raise ValueError(
                f"latent and action must have sizes {self.latent_dim} and {self.action_dim}, "
                f"got {latent.shape[-1]} and {action.shape[-1]}"
            )
        return self.density.unroll(torch.cat((latent, action), dim=-1), state)

    def predict(self, hidden: Float[Tensor, "*batch features"]) -> Prediction:
        """Return the predictions for the features that `unroll` returns."""
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
        """Predict the next latent, reward and termination at each time; also return the last state."""
        hidden, state = self.unroll(latent, action, state)
        return self.predict(hidden), state

    def loss(self, batch: SequenceBatch, generator: Generator | None = None) -> Loss:
        """Return the mean loss over the valid steps.

        The loss is ``-log p(next latent)`` (nats per frame), plus ``reward_weight`` times the cross-entropy of the two-hot
        reward, plus the binary cross-entropy of the termination.
        """
        prediction, _ = self(batch.latent, batch.action)
        count = batch.mask.sum().clamp(min=1)
        valid = batch.mask > 0

        def mean(values: Float[Tensor, "batch time"]) -> Float[Tensor, ""]:
            return torch.where(valid, values, 0).sum() / count

        # Zero the padding first: its numbers then reach neither the loss nor a gradient.
        target = torch.where(valid[..., None], batch.next_latent, 0)
        parts = {"nll": mean(-prediction.latent.log_prob(target))}
        if prediction.reward_logits is not None:
            upper, share = _two_hot(torch.where(valid, batch.reward, 0), self.support)
            logs = log_softmax(prediction.reward_logits, dim=-1)
            below, above = (logs.gather(-1, (upper + step)[..., None])[..., 0] for step in (-1, 0))
            parts["reward"] = mean(-(below + share * (above - below)))
        if prediction.termination_logit is not None:
            ended = torch.where(valid, batch.terminated, 0)
            parts["termination"] = mean(
                binary_cross_entropy_with_logits(prediction.termination_logit, ended, reduction="none")
            )
        weighted = [self.reward_weight * part if name == "reward" else part for name, part in parts.items()]
        return Loss(torch.stack(weighted).sum(), {name: part.detach() for name, part in parts.items()})

    @torch.no_grad()
    def init_from_data(self, batch: SequenceBatch) -> None:
        """Initialize the predictions at the marginals of the data; `worldmodel.fit` passes the first batch of a new training.

        The density starts at the mean and standard deviation of the latents. The reward head starts at the distribution of
        rewards, with the weight of one step spread over all bins. The termination head starts at the termination rate, with
        half a step added for each outcome.
        """
        valid = batch.mask > 0
        latent = batch.next_latent[valid]
        if len(latent) < 2:
            return
        self.density.init_from_data(batch.latent[valid], latent)
        if self.reward_head is not None:
            upper, share = _two_hot(batch.reward[valid], self.support)
            weight = self.support.new_full((REWARD_BINS,), 1 / REWARD_BINS)
            weight.index_add_(0, upper, share).index_add_(0, upper - 1, 1 - share)
            self.reward_head.bias.copy_((weight / weight.sum()).log())
        if self.termination_head is not None:
            ended = batch.terminated[valid].sum() + 0.5
            self.termination_head.bias.copy_((ended / (len(latent) + 1)).logit())

    def expected_reward(self, logits: Float[Tensor, "*batch bins"]) -> Float[Tensor, "*batch"]:
        """Return the mean reward of the predicted bins."""
        return logits.softmax(dim=-1) @ self.support


def zero_init(layer: nn.Linear) -> nn.Linear:
    """Set a layer's weights and bias to zero, so that it predicts a uniform distribution for any hidden state."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
