"""Values at several hook points replaced in one pass: each is what the model makes of the replacements before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..store.errors import UserError
from .bridge import BridgeModel
from .decoder import Decoder
from .sites import Site, residual_before

Replace = Callable[[int, Float[Tensor, "batch pos d_in"]], Float[Tensor, "batch pos d_in"]]
"""From the number of a site and the value there to what takes its place."""


def in_order(hook_points: Sequence[str], arch: Any, key: str) -> list[Site]:
    """The sites of hook points that are listed in the order of the forward pass; `arch` as in `Site.parse`.

    Raises:
        UserError: one does not depend on the one before it; `key` is the setting that names them.
    """
    sites = [Site.parse(name, arch) for name in hook_points]
    for before, after in zip(sites, sites[1:], strict=False):
        if not {after.canonical(arch), _stream(after, arch)} <= set(before.downstream(arch)):
            raise UserError(
                f"`{key}` has {after.name} after {before.name}, which does not change it in this model; list them in the order of the model, "
                "and keep one of two that do not depend on each other."
            )
    return sites


def _stream(site: Site, arch: Any) -> str:
    return Site.parse(site.stream, arch).canonical(arch)


def continue_through(
    model: Decoder | BridgeModel,
    sites: Sequence[Site],
    replace: Replace,
    x: Float[Tensor, "batch pos d_in"],
    stream: Float[Tensor, "batch pos d_model"],
    capture: Iterable[str] = (),
) -> tuple[Float[Tensor, "batch pos d_model"], dict[str, Tensor]]:
    """Run the rest of the model from the first of `sites`, which are `in_order`, with the values at all of them replaced.

    `x` and `stream` are the clean values at the first site and at its `stream`. Returns the residual after the last block and the
    values at the hook points `capture`, which are among the first site's `downstream`; at one of the sites that is the value before
    it is replaced. Gradients flow through the replacements, and through the values that later ones are made from.
    """
    arch, wanted = model.arch, list(capture)
    found: dict[str, Tensor] = {}
    for number, site in enumerate(sites):
        if isinstance(model, BridgeModel) and not site.is_residual:
            model._check_continues(site)
        resid = _spliced(model, site, replace(number, x), x, stream)
        following = sites[number + 1] if number + 1 < len(sites) else None
        needed = [following.canonical(arch), _stream(following, arch)] if following else []
        names = [name for name in dict.fromkeys([*wanted, *needed]) if name in site.downstream(arch)]
        start = Site.parse(site.stream, arch)
        if start.in_block:  # both models run the rest of a block only with all that is behind it
            last, values = model.continue_from(start, resid, capture=names)
        else:
            stop = following.resume if following else arch.n_layers
            last, values = model.blocks(resid, start.resume, stop, names)
            values |= {residual_before(stop, arch.n_layers): last}
        found |= values
        if following:
            x, stream = (values[name] for name in needed)
    return last, {name: found[name] for name in wanted}


def _spliced(model: Decoder | BridgeModel, site: Site, replacement: Tensor, value: Tensor, stream: Tensor) -> Tensor:
    """As `sites.splice`, with a gradient for `value` and `stream` too: they follow from replacements before."""
    if site.is_residual:
        return replacement
    change = replacement - value
    return stream + (change @ _output_matrix(model, site.layer) if site.kind == "z" else change)


def _output_matrix(model: Decoder | BridgeModel, layer: int) -> Float[Tensor, "d_in d_model"]:
    if isinstance(model, BridgeModel):
        return model.bridge.blocks[layer].attn.W_O.flatten(0, 1)
    return model.weights[f"blocks.{layer}.attn.o.W"].T
