"""The interface to how the products of training steps are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from ..codes import Selected

if TYPE_CHECKING:
    from ..base import SAE

Result = TypeVar("Result")


class Execution(ABC):
    """A way to compute the products of one run's steps.

    Attributes:
        uses_kernels: whether Triton kernels multiply.
        entries: how many entries were active in the last step, where the next depends on it: part of a checkpoint.
    """

    uses_kernels = False
    entries: int | None = None

    @abstractmethod
    def encode(
        self, sae: SAE, x: Float[Tensor, "B d_in"], dead: Bool[Tensor, " d_sae"] | None = None, k_aux: int = 0
    ) -> Selected:
        """The pre-activations that a training step on normalised inputs needs.

        Args:
            dead: features among which AuxK takes the `k_aux` largest pre-activations of each token.
        """

    def until_complete(self, attempt: Callable[[], Result]) -> Result:
        """What a forward and backward pass gives that left nothing out; it is made again where it did."""
        return attempt()
