"""What all architectures share: parameters, input normalisation, decoder constraint, encoding and decoding.

How the products of a training step are computed is no matter of an SAE: see `execution`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..config.base import Frozen
from .codes import Codes, Selected
from .selection import flat_nonzero

DecoderConstraint = Literal["normalised", "renormalised", "free"]
_LAYER_NORM_EPS = 1e-5  # added to the unbiased standard deviation on the way in only, as in SAELens and Gao et al.'s code


@dataclass
class Forward:
    """A training forward pass, in the normalised space of the input.

    `pre` holds the pre-activations of the entries of `codes`; `aux` those of the dead features that AuxK takes; `more` those of
    `extra_selections`. `outputs` are the reconstructions that count: one, or one per nested prefix (the whole dictionary last).
    `training_pass` adds what else losses are made of.

    Attributes:
        denormalise: takes an output to the space of the input.
        penalised: what the sparsity penalty sums up, if there is one; `norms` makes the dictionary's norms at its entries.
        further: outputs whose errors are further loss terms, `(weight, output)` by the term's name.
        revived: the output of the dead features alone, without a bias, if AuxK or ghost gradients ask for it.
    """

    x: Float[Tensor, "B d_in"]
    codes: Codes
    pre: Codes
    outputs: list[Float[Tensor, "B d_in"]]
    dictionary: Float[Tensor, "d_sae d_in"]
    aux: Codes | None
    more: tuple[Codes, ...]
    denormalise: Callable[[Float[Tensor, "B d_in"]], Float[Tensor, "B d_in"]] | None = None
    penalised: Codes | None = None
    norms: Callable[[], Tensor] | None = None
    further: dict[str, tuple[float, Float[Tensor, "B d_in"]]] = field(default_factory=dict)
    revived: Float[Tensor, "B d_in"] | None = None

    @property
    def output(self) -> Float[Tensor, "B d_in"]:
        """The reconstruction."""
        return self.outputs[-1]


@dataclass(frozen=True)
class PerFeature:
    """The role of a tensor with a number for each feature.

    Attributes:
        saved: its name in a file, in SAELens' layout.
        scaled: whether it is in the unit of the activations, so that an activation scale changes it.
    """

    saved: str
    scaled: bool = True


class SAE(nn.Module, ABC):
    """A sparse autoencoder: x̂ = c D + b_dec with c = σ((x [− b_dec]) W_enc + b_enc).

    Shapes as in SAELens: `W_enc` (d_in, d_sae), `W_dec` (d_sae, d_in).

    Args:
        k: active features per token, for an architecture whose sparsity it sets.
        decoder: `normalised`: D = W_dec with rows normalised in the forward pass, differentiably (Braun et al. 2024);
            `renormalised`: D = W_dec, whose rows the trainer returns to unit norm after each step (Bloom 2024);
            `free`: D = W_dec (Anthropic, April 2024).
        pre_bias: b_dec is subtracted from the input.
        layer_norm: each input is centred and divided by its standard deviation, and the output rescaled alike.
        options: the architecture's own, by their names in the `training` block.
    """

    architecture: ClassVar[str]  # the name of its file
    options_type: ClassVar[type[Frozen]]  # its `Options`
    elementwise = True  # each entry depends on its own pre-activation only
    selects_by_token = True  # which entries a token has does not depend on the other tokens
    per_feature: ClassVar[dict[str, PerFeature]] = {"b_enc": PerFeature("b_enc")}
    loads: ClassVar[tuple[str, ...]]  # names under which it is loaded; by default that of its file

    def __init_subclass__(cls) -> None:
        cls.architecture = cls.__module__.rpartition(".")[2]
        if "loads" not in vars(cls):
            cls.loads = (cls.architecture,)

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        k: int | None = None,
        decoder: DecoderConstraint = "free",
        pre_bias: bool = False,
        layer_norm: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.d_in, self.d_sae, self.k = d_in, d_sae, k
        self.decoder, self.pre_bias, self.layer_norm = decoder, pre_bias, layer_norm
        self.options = self.options_type(**options)
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    # what an architecture defines

    def initialise(self) -> None:  # noqa: B027
        """Fill the parameters that only this architecture has, where they do not start at zero."""

    def floor(self) -> Float[Tensor, " d_sae"] | float:
        """Pre-activations at or below it have no activation and no gradient (elementwise architectures)."""
        return 0.0

    @abstractmethod
    def activate(self, pre: Codes) -> Codes:
        """Activations from the pre-activations of the selected entries."""

    def select(self, pre: Float[Tensor, "rows d_sae"]) -> Int[Tensor, " n"]:
        """Flat indices of the entries that may be active."""
        return flat_nonzero(pre > self.floor())

    def extra_selections(self, pre: Float[Tensor, "rows d_sae"]) -> list[Int[Tensor, " n"]]:
        """Flat indices of further entries that the loss needs, for architectures that have such."""
        return []

    def reconstructions(self, codes: Codes, dictionary: Float[Tensor, "d_sae d_in"]) -> list[Float[Tensor, "B d_in"]]:
        """The outputs that count, the whole dictionary's last."""
        return [codes.decode(dictionary) + self.b_dec]

    def penalised(self, step: Forward, penalty: str) -> Codes:
        """What a sparsity penalty sums up, entry by entry."""
        return step.codes

    def penalty_norms(self, step: Forward, codes: Codes) -> Tensor:
        """Norms of the dictionary's rows, at each entry of `codes`, for the penalties that weigh with them."""
        return codes.at(step.dictionary.norm(dim=1))

    def further_outputs(self, step: Forward) -> dict[str, tuple[float, Float[Tensor, "B d_in"]]]:
        """Further reconstructions whose errors are loss terms of the architecture itself: `(weight, output)` by the term's name."""
        return {}

    # inference

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations."""
        x = self.normalise(x)[0]
        pre = self.pre_activations(x.reshape(-1, self.d_in))
        codes = self.activate(Codes(pre) if self.elementwise else Codes.only(pre, self.select(pre.detach())))
        return codes.values.view(*x.shape[:-1], self.d_sae)

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction from feature activations; under `layer_norm` that of the normalised input."""
        return F.linear(codes, self.dictionary().T, self.b_dec)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_in"], Float[Tensor, "*batch d_sae"]]:
        """`(reconstruction, codes)`."""
        codes = self.encode(x)
        return self.denormalise(self.decode(codes), self.normalise(x)[1]), codes

    def pre_activations(self, x: Float[Tensor, "B d_in"]) -> Float[Tensor, "B d_sae"]:
        """(x [− b_dec]) W_enc + b_enc for normalised inputs."""
        # selected and thresholded in the precision of the input, whatever that of the product
        return F.linear(x - self.b_dec if self.pre_bias else x, self.W_enc.T, self.b_enc).to(x.dtype)

    def dictionary(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder directions, a row each."""
        return F.normalize(self.W_dec, dim=1) if self.decoder == "normalised" else self.W_dec

    def normalise(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_in"], tuple[Tensor, Tensor] | None]:
        """The input that the encoder sees, and what `denormalise` needs."""
        if not self.layer_norm:
            return x, None
        mean, std = x.mean(dim=-1, keepdim=True), x.std(dim=-1, keepdim=True)
        return (x - mean) / (std + _LAYER_NORM_EPS), (mean, std)

    def denormalise(
        self, output: Float[Tensor, "*batch d_in"], stats: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "*batch d_in"]:
        """A reconstruction in the space of the input."""
        return output if stats is None else output * stats[1] + stats[0]

    # training

    def finish(self, x: Float[Tensor, "B d_in"], selected: Selected) -> Forward:
        """The forward pass of a training step on normalised inputs `x`, from their pre-activations."""
        codes, dictionary = self.activate(selected.pre), self.dictionary()
        outputs = self.reconstructions(codes, dictionary)
        return Forward(x, codes, selected.pre, outputs, dictionary, selected.aux, selected.more)

    @torch.no_grad()
    def before_step(self) -> None:
        """Under `renormalised`, remove from the decoder's gradient what would only change the norms of its rows."""
        if self.decoder == "renormalised" and self.W_dec.grad is not None:
            grad, rows = self.W_dec.grad, F.normalize(self.W_dec, dim=1)
            grad.sub_((grad * rows).sum(dim=1, keepdim=True) * rows)

    @torch.no_grad()
    def after_step(self) -> None:
        """Restore the decoder's constraint after an optimiser step."""
        if self.decoder == "renormalised":
            self.W_dec.copy_(F.normalize(self.W_dec, dim=1))

    def feature_parameters(self) -> list[nn.Parameter]:
        """The parameters with a number for each feature."""
        return [value for name in self.per_feature if isinstance(value := getattr(self, name), nn.Parameter)]

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Turn an SAE of x into the same SAE of factor · x."""
        for name in ("b_dec", *(name for name, role in self.per_feature.items() if role.scaled)):
            if isinstance(value := getattr(self, name), nn.Parameter):
                value.mul_(factor)

    # files

    @property
    def saved_as(self) -> str:
        """The architecture that it is once trained, by whose name it is saved."""
        return self.architecture

    def saved_config(self) -> dict[str, Any]:
        """What its configuration file says beside what all say."""
        return {} if self.k is None else {"k": self.k}

    @classmethod
    def loaded(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Arguments of its own for `from_saved`, and the tensors, from the content of its files."""
        return ({"k": config["k"]} if "k" in config else {}), weights

    @classmethod
    def saved_names(cls) -> dict[str, str]:
        """Its tensors: our names to those in a file."""
        plain = {name: name for name in ("W_enc", "W_dec", "b_dec")}
        return plain | {name: role.saved for name, role in cls.per_feature.items()}

    @classmethod
    @torch.no_grad()
    def from_saved(cls, weights: dict[str, Tensor], **options: Any) -> Self:
        """A frozen SAE from the tensors of a file. `options` are arguments of the class."""
        d_in, d_sae = weights["W_enc"].shape
        sae = cls(d_in, d_sae, **options)
        for ours, saved in cls.saved_names().items():
            getattr(sae, ours).copy_(weights[saved])
        return sae.eval().requires_grad_(False)

    @torch.no_grad()
    def continue_from(self, saved: SAE) -> None:
        """Take over the parameters of an SAE that was loaded from where this architecture was saved."""
        parameters = dict(saved.named_parameters())
        for name, parameter in self.named_parameters():
            parameter.copy_(parameters[name])


def fold_decoder_norms(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same reconstructions from codes multiplied by the decoder's norms, with unit decoder rows."""
    norms = weights["W_dec"].norm(dim=1)
    return weights | {
        "W_enc": weights["W_enc"] * norms,
        "b_enc": weights["b_enc"] * norms,
        "W_dec": weights["W_dec"] / norms.clamp(min=torch.finfo(norms.dtype).tiny)[:, None],  # a row of zeros stays one
    }
