"""Where an SAE can sit, and what its output changes in the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..store.errors import UserError

_HOOKS = {  # kind: the name within its block, in the order of computation
    "resid_pre": "hook_resid_pre",
    "z": "attn.hook_z",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}


@dataclass(frozen=True)
class Site:
    """A hook point of a model, seen as a place for an SAE.

    `kind` is resid_pre, resid_mid, resid_post, mlp_out, attn_out or z (heads concatenated). `layer` counts blocks; for
    resid_post it is the layer whose input that residual is (`n_layers`: the input of the final norm), for the rest the L of
    the name. `stream` is the residual's hook point from which the model continues once the value is replaced: the site
    itself if it is a residual, else the first residual that the value is added to and that a later part reads.
    """

    name: str
    kind: str
    layer: int
    d_in: int
    stream: str

    @property
    def is_residual(self) -> bool:
        return self.stream == self.name

    @property
    def in_block(self) -> bool:
        """The model continues between the attention and the MLP of block `layer`."""
        return self.stream.endswith(_HOOKS["resid_mid"])

    @property
    def resume(self) -> int:
        """The first block that runs whole after a replacement; the number of blocks that must run to capture the value."""
        return self.layer + (self.kind not in ("resid_pre", "resid_post"))

    def downstream(self, arch: Any) -> list[str]:
        """Hook points that a replacement at the site changes, in the order of computation; each residual under one name.

        A residual between two blocks is the `hook_resid_pre` of the second; after the last block it is `hook_resid_post`.
        """
        arch = _architecture(arch)
        names = [f"blocks.{self.layer}.{_HOOKS[kind]}" for kind in ("resid_mid", "mlp_out")] if self.in_block else []
        for block in range(self.resume, arch.n_layers):
            names += [f"blocks.{block}.{_HOOKS[kind]}" for kind in _kinds(arch) if kind != "resid_post"]
        names.append(residual_before(arch.n_layers, arch.n_layers))
        return [name for name in names if name not in (self.name, self.canonical(arch))]

    def canonical(self, arch: Any) -> str:
        """The name of the same value in `downstream`."""
        if self.kind == "resid_post":
            return residual_before(self.layer, _architecture(arch).n_layers)
        return self.name

    @classmethod
    def parse(cls, hook_point: str, arch: Any) -> Site:
        """The site named `hook_point` in a model; `arch` is its `Architecture`, or the record of one (a mapping).

        Blocks whose attention and MLP read the same residual have no `hook_resid_mid`.

        Raises:
            UserError: the model has no such hook point, naming the nearest ones that it has.
        """
        arch = _architecture(arch)
        kinds = _kinds(arch)
        kind, block = locate(hook_point, arch.n_layers, kinds)
        stream = {"mlp_out": "resid_post", "attn_out": "resid_mid", "z": "resid_mid"}.get(kind, kind)
        if stream not in kinds:
            stream = "resid_post"
        return cls(
            name=hook_point,
            kind=kind,
            layer=block + (kind == "resid_post"),
            d_in=arch.n_heads * arch.d_head if kind == "z" else arch.d_model,
            stream=f"blocks.{block}.{_HOOKS[stream]}",
        )


def residual_before(layer: int, n_layers: int) -> str:
    """The hook point of the residual that block `layer` reads; for `layer` = `n_layers` of the one after the last block."""
    return f"blocks.{layer}.{_HOOKS['resid_pre']}" if layer < n_layers else f"blocks.{layer - 1}.{_HOOKS['resid_post']}"


def _architecture(arch: Any) -> Any:
    return SimpleNamespace(**arch) if isinstance(arch, Mapping) else arch


def _kinds(arch: Any) -> list[str]:
    return [kind for kind in _HOOKS if not (kind == "resid_mid" and arch.parallel)]


def locate(hook_point: str, n_layers: int, kinds: Iterable[str]) -> tuple[str, int]:
    """`(kind, block)` of a hook point of one of `kinds`.

    Raises:
        UserError: it is none, naming the nearest ones.
    """
    known = {f"blocks.{block}.{_HOOKS[kind]}": (kind, block) for kind in kinds for block in range(n_layers)}
    if hook_point in known:
        return known[hook_point]
    parts = hook_point.split(".")
    block = int(parts[1]) if len(parts) > 1 and parts[0] == "blocks" and parts[1].isdecimal() else 0
    block = min(block, n_layers - 1)
    near = [f"blocks.{i}.hook_resid_pre" for i in range(max(0, block - 1), min(n_layers, block + 2))]
    near += [name for name, (kind, i) in known.items() if i == block and kind != "resid_pre"]
    raise UserError(
        f"hook point {hook_point!r} does not exist in this model of {n_layers} blocks, or SAEs cannot sit there; "
        f"valid ones near it: {', '.join(near)}."
    )


def splice(
    site: Site,
    replacement: Float[Tensor, "batch pos d_in"],
    clean_value: Float[Tensor, "batch pos d_in"] | None,
    stream_value: Float[Tensor, "batch pos d_model"] | None,
    W_O: Float[Tensor, "d_in d_model"] | None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual at `site.stream` once `replacement` stands where `clean_value` stood.

    Whatever is added to the residual stream can be exchanged there: stream + (replacement − clean), for z times `W_O`. No
    gradient reaches `clean_value` or `stream_value`; at a residual neither is read.
    """
    if site.is_residual:
        return replacement
    change = replacement - clean_value.detach()  # first, so that an equal replacement changes nothing at all
    return stream_value.detach() + (change @ W_O if site.kind == "z" else change)
