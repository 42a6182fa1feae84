"""The language model behind the hook point: where it is compared downstream, and its pass without an SAE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..config.objectives import OBJECTIVES, term_weights
from ..config.training import RunSpec
from ..lm.bridge import BridgeModel
from ..lm.decoder import Decoder
from ..lm.sites import Site
from ..store.errors import UserError


def downstream_hook_points(spec: RunSpec, site: Site, arch: Any) -> list[str]:
    """Hook points that are reconstructed downstream of `site`: the configured ones, or the residuals before later blocks.

    Raises:
        UserError: a configured hook point is not downstream of the SAE, or there is none.
    """
    weights = term_weights(spec.objective, dict(spec.training))
    if not any(weights[term.name] for term in OBJECTIVES[spec.objective].terms if term.at == "downstream"):
        return []
    possible = site.downstream(arch)
    if spec.training.downstream_hook_points is not None:
        given = {Site.parse(name, arch).canonical(arch): name for name in spec.training.downstream_hook_points}
        wrong = [name for canonical, name in given.items() if canonical not in possible]
        chosen = [name for name in possible if name in given]
    else:
        wrong = []
        chosen = [name for name in possible if name.endswith("hook_resid_pre")][: spec.training.downstream_next]
    if wrong or not chosen:
        fault = (
            f"`downstream_hook_points` of run {spec.name} names {wrong[0]}"
            if wrong
            else f"run {spec.name} has objective `{spec.objective}`"
        )
        after = f"what depends on {spec.hook_point} in this model is {', '.join(possible) or 'nothing'}"
        raise UserError(f"{fault}, but {after}; choose `downstream_hook_points` among that, or another hook point for the SAE.")
    return chosen


@dataclass
class CleanPass:
    """The model from the hook point on, without an SAE: shared by all runs that train on the same rows.

    Nothing below the hook point is recomputed: `x` are cached values there, and `stream` the cached residual that the
    model continues from (`Site.stream`), where that is not `x` itself.
    """

    model: Decoder | BridgeModel
    site: Site
    x: Float[Tensor, "rows context d_in"]
    stream: Float[Tensor, "rows context d_model"]
    capture: list[str]
    hidden: Float[Tensor, "rows context d_model"] = field(init=False)
    values: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        with torch.no_grad():
            last, self.values = self.run(self.x)
            self.hidden = self.model.final_norm(last)

    def run(
        self, replacement: Float[Tensor, "rows context d_in"], capture: list[str] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The residual after the last block, and the values at the hook points `capture`, with `replacement` at the hook point."""
        return self.model.continue_from(self.site, replacement, self.x, self.stream, self.capture if capture is None else capture)
