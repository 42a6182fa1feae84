"""The interface to how the products of training steps are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from ..base import SAE, Forward


class Execution(ABC):
    """A way to compute the products of one run's steps. A step is `forward`, the backward pass, and `complete`.

    Attributes:
        uses_kernels: whether Triton kernels multiply.
        entries: how many entries were active in the last step, where the next depends on it: part of a checkpoint.
    """

    uses_kernels = False
    entries: int | None = None

    @abstractmethod
    def forward(
        self, sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0
    ) -> Forward:
        """The forward pass of a training step on normalised inputs.

        Args:
            dead: features among which AuxK takes the `k_aux` largest pre-activations of each token.
        """

    def complete(self) -> bool:
        """Whether the last forward pass, and so its gradients, left nothing out; if not, the step has to be made again."""
        return True
