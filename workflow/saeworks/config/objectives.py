"""What runs minimise, as data: objectives, penalties and reconstruction errors.

To add an objective, add an entry to `OBJECTIVES`. A loss that does not exist yet is one more function in `losses`, named in the
entry: its parameters say by their names which of the quantities of a step it gets (`training.objective`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .architectures import ARCHITECTURES

if TYPE_CHECKING:
    from .training import RunSpec


@dataclass(frozen=True)
class Term:
    """A term of an objective's loss.

    Attributes:
        name: its name in logs and tables, that of e2e_sae.
        weight: its weight where the settings do not say otherwise.
        setting: the key of the `training` block that says otherwise; None where the weight is fixed.
        loss: the function in `losses`; None: the run's own reconstruction error (`mse_norm`).
        at: where it compares: at the SAE itself, at the model's output, or at hook points downstream.
    """

    name: str
    weight: float
    setting: str | None = None
    loss: str | None = None
    at: Literal["sae", "output", "downstream"] = "sae"


@dataclass(frozen=True)
class Objective:
    """What a run minimises beside its sparsity penalty.

    Attributes:
        label: its name in figures.
        meaning: what it minimises, in a few words.
        color: its colour in figures, of Okabe and Ito's colour-blind-safe palette.
        marker: its marker in figures, by matplotlib's name.
        terms: in the order in which they are computed and logged. Terms at the SAE are computed even at weight 0, to be logged.
        balances_kl: the KL divergence is scaled to the value of the reconstruction error, a constant (Karvonen 2025, arXiv
            2503.17272).
        starts_from_run: it continues a trained run, which gives the SAE's sizes and first values.
    """

    label: str
    meaning: str
    color: str
    marker: str
    terms: tuple[Term, ...]
    balances_kl: bool = False
    starts_from_run: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether a term is behind the language model."""
        return any(term.at != "sae" for term in self.terms)

    @property
    def settings(self) -> set[str]:
        """The settings that weigh its terms."""
        return {term.setting for term in self.terms if term.setting}


def _kl(weight: float) -> Term:
    return Term("logits_kl", weight, "kl_coeff", "logits_kl", "output")


def _downstream(weight: float) -> Term:
    return Term("in_to_orig", weight, "downstream_coeff", "downstream_mse", "downstream")


def _reconstruction(weight: float) -> Term:
    return Term("out_to_in", weight, "reconstruction_coeff")


# The first three with the weights of Braun et al. 2024 (arXiv 2405.12241).
OBJECTIVES: dict[str, Objective] = {
    "local": Objective("local", "reconstruction", "#0072B2", "o", (Term("out_to_in", 1.0),)),
    "e2e": Objective("e2e", "KL of the output", "#D55E00", "s", (_kl(1.0), _reconstruction(0.0))),
    "e2e_ds": Objective(
        "e2e+ds", "KL and downstream reconstruction", "#009E73", "^", (_kl(0.5), _downstream(2.5), _reconstruction(0.0))
    ),
    "finetune": Objective(
        "fine-tuned",
        "reconstruction and KL in balance, from a trained run",
        "#CC79A7",
        "D",
        (_kl(0.5), _downstream(0.0), _reconstruction(0.5)),
        balances_kl=True,
        starts_from_run=True,
    ),
    "continued": Objective(
        "local continued",
        "reconstruction, from a trained run: the control of `finetune`",
        "#56B4E9",
        "v",
        (Term("out_to_in", 1.0),),
        starts_from_run=True,
    ),
}

# Functions in `losses`, by their names in the configuration; the settings that a penalty has beside its coefficient.
RECONSTRUCTION_ERRORS = {"d_in": "reconstruction_mse", "input_norm": "mse_by_input_norm", "variance": "mse_by_variance"}


@dataclass(frozen=True)
class Penalty:
    """A sparsity penalty.

    Attributes:
        loss: the function in `losses`.
        settings: keys of the `training` block, by the names of the function's parameters that they give.
        weighs_decoder: a larger decoder does not make it smaller.
    """

    loss: str
    settings: Mapping[str, str]
    weighs_decoder: bool


PENALTIES: dict[str, Penalty] = {
    "l1": Penalty("l1", {}, weighs_decoder=False),
    "lp": Penalty("lp", {"p": "lp_p"}, weighs_decoder=False),
    "l1_decoder_norm": Penalty("l1_decoder_norm", {}, weighs_decoder=True),
    "tanh": Penalty("tanh_sparsity", {"scale": "tanh_scale"}, weighs_decoder=True),
    "l0": Penalty("l0", {}, weighs_decoder=True),
}


def term_weights(objective: str, settings: Mapping[str, Any]) -> dict[str, float]:
    """Weight of each term of an objective under the `training` settings."""

    def weight(term: Term) -> float:
        given = settings.get(term.setting) if term.setting else None
        return term.weight if given is None else float(given)

    return {term.name: weight(term) for term in OBJECTIVES[objective].terms}


def weight_at(objective: str, settings: Mapping[str, Any], at: str) -> float:
    """Weight of all terms of an objective that compare at one of the places of `Term`, under the `training` settings."""
    weights = term_weights(objective, settings)
    return sum(weights[term.name] for term in OBJECTIVES[objective].terms if term.at == at)


def coefficients(spec: RunSpec) -> dict[str, float]:
    """Weights of a run's loss terms by name; a term that is not among them has weight 1."""
    own = {"sparsity": spec.sparsity_coeff or 0.0, "auxk": spec.training.auxk_coeff}
    return term_weights(spec.objective, dict(spec.training)) | own


def penalty_of(architecture: str, penalty: str | None) -> str | None:
    """The penalty of a run of this architecture: the one that is set, or the architecture's default; None where k sets the sparsity."""
    admitted = ARCHITECTURES[architecture].penalties
    return (penalty or admitted[0]) if admitted else None


def loss_functions(spec: RunSpec) -> tuple[str, ...]:
    """The functions in `losses` that a run looks up by name: its terms', its reconstruction error's and its penalty's."""
    penalty = penalty_of(spec.training.architecture, spec.training.penalty)
    found = {term.loss for term in OBJECTIVES[spec.objective].terms if term.loss}
    found.add(RECONSTRUCTION_ERRORS[spec.training.mse_norm])
    if penalty:
        found.add(PENALTIES[penalty].loss)
    return tuple(sorted(found))


def objective_facts(spec: RunSpec) -> dict[str, Any]:
    """What a run minimises, as far as it is data: its terms with their weights, and how its penalty is computed."""
    objective = OBJECTIVES[spec.objective]
    penalty = penalty_of(spec.training.architecture, spec.training.penalty)
    return {
        "terms": [[term.name, term.loss, term.at] for term in objective.terms],
        "weights": coefficients(spec),
        "balances_kl": objective.balances_kl,
        "reconstruction_error": RECONSTRUCTION_ERRORS[spec.training.mse_norm],
        "penalty": penalty and [PENALTIES[penalty].loss, dict(PENALTIES[penalty].settings)],
    }
