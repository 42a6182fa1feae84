"""A decoder-only transformer that runs from any block to any other, with fused attention.

It computes what TransformerBridge computes (tested to 1e-9 in float64) at the speed of `scaled_dot_product_attention`,
from one safetensors file, without importing transformer_lens. `lm.prepare` writes that file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from ..store.files import write_tensors
from .sites import Site, residual_before, splice

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass(frozen=True)
class Architecture:
    """Shape and variants of a decoder; everything but the weights."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_vocab: int
    n_ctx: int
    norm: str  # "layer" or "rms"
    eps: float
    rotary_dim: int  # 0: learned absolute positions
    activation: str
    parallel: bool  # attention and MLP read the same residual
    attn_scale: float
    windows: tuple[int, ...]  # per layer; 0: attends to every earlier position

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise NotImplementedError(f"activation {self.activation!r}")
        if self.norm not in ("layer", "rms"):
            raise NotImplementedError(f"normalisation {self.norm!r}")


class KeyValueCache:
    """Keys and values of the positions seen so far, per layer; used for sampling."""

    def __init__(self, arch: Architecture, batch: int, length: int, like: Tensor) -> None:
        shape = (arch.n_layers, batch, arch.n_kv_heads, length, arch.d_head)
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store `k`, `v` (batch, kv_heads, new, d_head) and return all of the layer's keys and values so far."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Decoder:
    """The frozen language model.

    `weights` maps names to tensors: `embed` (d_vocab, d_model), `pos_embed` (n_ctx, d_model), `inv_freq` (rotary_dim/2,),
    `unembed.W` (d_vocab, d_model), `unembed.b`, `ln_final.{w,b}`, and per block `blocks.L.{ln1,ln2}.{w,b}`,
    `attn.{qkv,o}.{W,b}`, `mlp.{gate,in,out}.{W,b}`; matrices are (out, in). What an architecture lacks is absent.
    """

    soft_cap: float | None = None  # none of the families that it covers caps its logits

    def __init__(self, arch: Architecture, weights: dict[str, Tensor], rope_scale: float = 1.0) -> None:
        self.arch = arch
        self.weights = {name: tensor.detach() for name, tensor in weights.items()}
        self.rope_scale = rope_scale

    @property
    def device(self) -> torch.device:
        return self.weights["embed"].device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights["embed"].dtype

    @property
    def W_U(self) -> Float[Tensor, "d_vocab d_model"]:
        """Unembedding matrix, transposed against TransformerLens: logits = h W_Uᵀ + b_U."""
        return self.weights["unembed.W"]

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"] | None:
        return self.weights.get("unembed.b")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Decoder:
        """A copy on another device or in another floating-point type."""
        moved = {k: v.to(device=device, dtype=None if k == "inv_freq" else dtype) for k, v in self.weights.items()}
        return Decoder(self.arch, moved, self.rope_scale)

    def embed(self, tokens: Int[Tensor, "batch pos"], offset: int = 0) -> Float[Tensor, "batch pos d_model"]:
        """`blocks.0.hook_resid_pre` of the tokens, the first of which stands at position `offset`."""
        resid = self.weights["embed"][tokens]
        if "pos_embed" in self.weights:
            resid = resid + self.weights["pos_embed"][offset : offset + tokens.shape[1]]
        return resid

    def blocks(
        self,
        resid: Float[Tensor, "batch pos d_model"],
        start: int,
        stop: int,
        capture: Iterable[str] = (),
        cache: KeyValueCache | None = None,
    ) -> tuple[Float[Tensor, "batch pos d_model"], dict[str, Tensor]]:
        """Run blocks `start` … `stop`-1 from `blocks.{start}.hook_resid_pre`.

        Returns the residual before block `stop`, and the values (batch, pos, d_in) at those hook points in `capture` that
        these blocks have.
        """
        wanted, captured = set(capture), {}
        for layer in range(start, stop):
            resid = _last_of(self._block_values(layer, resid, cache), wanted, captured)
        if stop == self.arch.n_layers and (last := residual_before(stop, stop)) in wanted:
            captured[last] = resid  # also where no block is left to run
        return resid, captured

    def hook_values(self, tokens: Int[Tensor, "batch pos"], names: Iterable[str]) -> dict[str, Float[Tensor, "batch pos d_in"]]:
        """The values at each of the hook points `names`, from one pass that ends at the last of them.

        `attn.hook_z` has its heads concatenated.

        Raises:
            UserError: a hook point does not exist.
        """
        left, values = {Site.parse(name, self.arch).name for name in names}, {}
        resid = self.embed(tokens)
        for layer in range(self.arch.n_layers):
            for name, value in self._block_values(layer, resid):
                if name in left:
                    values[name] = value
                    left.remove(name)
                if not left:
                    return values
            resid = value
        return values

    def continue_from(
        self,
        site: Site,
        replacement: Float[Tensor, "batch pos d_in"],
        clean_value: Float[Tensor, "batch pos d_in"] | None = None,
        stream_value: Float[Tensor, "batch pos d_model"] | None = None,
        capture: Iterable[str] = (),
    ) -> tuple[Float[Tensor, "batch pos d_model"], dict[str, Tensor]]:
        """Run the rest of the model with `replacement` in the place of `clean_value` at `site`.

        `stream_value` is the clean residual at `site.stream`; a residual site needs neither of the two. Returns the residual
        before the final norm and the values at the hook points `capture`, which are among `site.downstream`. Gradients
        flow through `replacement` only.
        """
        W_O = self.weights[f"blocks.{site.layer}.attn.o.W"].T if site.kind == "z" else None
        resid = splice(site, replacement, clean_value, stream_value, W_O)
        wanted, captured = set(capture), {}
        if site.in_block:
            resid = _last_of(self._second_half(site.layer, resid, resid), wanted, captured)
        last, later = self.blocks(resid, site.resume, self.arch.n_layers, wanted)
        return last, captured | later

    def final_norm(self, resid: Tensor) -> Tensor:
        """The normalised residual that the unembedding reads."""
        return self._norm("ln_final", resid)

    def logits(self, resid: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of a residual after the last block."""
        return F.linear(self.final_norm(resid), self.W_U, self.b_U)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of whole rows."""
        return self.logits(self.blocks(self.embed(tokens), 0, self.arch.n_layers)[0])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights.get(f"{name}.w"), self.weights.get(f"{name}.b")
        if self.arch.norm == "rms":
            return F.rms_norm(x, (self.arch.d_model,), weight, self.arch.eps)
        return F.layer_norm(x, (self.arch.d_model,), weight, bias, self.arch.eps)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.W"], self.weights.get(f"{name}.b"))

    def _block_values(self, layer: int, resid: Tensor, cache: KeyValueCache | None = None) -> Iterator[tuple[str, Tensor]]:
        """Hook points of a block with their values as they are computed; the last is the residual after the block."""
        prefix = f"blocks.{layer}"
        yield f"{prefix}.hook_resid_pre", resid
        z = self._attention(layer, self._norm(f"{prefix}.ln1", resid), cache)
        yield f"{prefix}.attn.hook_z", z
        attn_out = self._linear(f"{prefix}.attn.o", z)
        yield f"{prefix}.hook_attn_out", attn_out
        yield from self._second_half(layer, resid, resid + attn_out)

    def _second_half(self, layer: int, resid: Tensor, mid: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The rest of `_block_values`, from the residual `mid` after the attention."""
        prefix = f"blocks.{layer}"
        yield f"{prefix}.hook_resid_mid", mid
        mlp_out = self._mlp(layer, resid if self.arch.parallel else mid)
        yield f"{prefix}.hook_mlp_out", mlp_out
        yield f"{prefix}.hook_resid_post", mid + mlp_out

    def _mlp(self, layer: int, resid: Tensor) -> Tensor:
        """`hook_mlp_out` of a block, from the residual that its second norm reads."""
        act, prefix = _ACTIVATIONS[self.arch.activation], f"blocks.{layer}.mlp"
        x = self._norm(f"blocks.{layer}.ln2", resid)
        inner = self._linear(f"{prefix}.in", x)
        if f"{prefix}.gate.W" in self.weights:
            return self._linear(f"{prefix}.out", act(self._linear(f"{prefix}.gate", x)) * inner)
        return self._linear(f"{prefix}.out", act(inner))

    def _attention(self, layer: int, x: Tensor, cache: KeyValueCache | None) -> Tensor:
        """`attn.hook_z` of a block, heads concatenated, from its normalised input."""
        arch = self.arch
        batch, new, _ = x.shape
        sizes = [arch.n_heads, arch.n_kv_heads, arch.n_kv_heads]
        q, k, v = (
            part.view(batch, new, heads, arch.d_head).transpose(1, 2)
            for part, heads in zip(
                self._linear(f"blocks.{layer}.attn.qkv", x).split([n * arch.d_head for n in sizes], dim=-1), sizes, strict=True
            )
        )
        offset = cache.length if cache is not None else 0
        if arch.rotary_dim:
            q, k = self._rotate(q, offset), self._rotate(k, offset)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        if arch.n_kv_heads != arch.n_heads:
            k, v = (t.repeat_interleave(arch.n_heads // arch.n_kv_heads, dim=1) for t in (k, v))
        mask = self._mask(layer, new, k.shape[2], x.device)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and new > 1, scale=arch.attn_scale)
        return out.transpose(1, 2).reshape(batch, new, arch.n_heads * arch.d_head)

    def _mask(self, layer: int, new: int, total: int, device: torch.device) -> Tensor | None:
        """True where a query may look; None where plain causal attention (or one query that sees all) will do."""
        window = self.arch.windows[layer]
        if not (window and total > window) and new in (1, total):
            return None
        query = torch.arange(total - new, total, device=device)[:, None]
        key = torch.arange(total, device=device)[None, :]
        return (key <= query) & (key > query - window) if window else key <= query

    @cached_property
    def _rotary_tables(self) -> tuple[Tensor, Tensor]:
        inv_freq = self.weights["inv_freq"].float()  # Hugging Face models compute these tables in float32, whatever their dtype
        angles = torch.outer(torch.arange(self.arch.n_ctx, device=self.device).float(), inv_freq)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos() * self.rope_scale, angles.sin() * self.rope_scale

    def _rotate(self, x: Tensor, offset: int) -> Tensor:
        """Rotary positions on the first `rotary_dim` components, halves rotated (the Hugging Face convention)."""
        cos, sin = (table[offset : offset + x.shape[2]].to(x.dtype) for table in self._rotary_tables)
        turned, passed = x[..., : self.arch.rotary_dim], x[..., self.arch.rotary_dim :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, passed], dim=-1)

    def save(self, path: Path) -> None:
        """Write the weights as safetensors (the architecture goes into the manifest beside it)."""
        write_tensors(path, {k: v.contiguous() for k, v in self.weights.items()})

    @classmethod
    def load(cls, path: Path, arch: dict, rope_scale: float, device: str = "cpu") -> Decoder:
        """Read what `save` wrote."""
        arch = Architecture(**{**arch, "windows": tuple(arch["windows"])})
        return cls(arch, load_file(path, device=device), rope_scale)

    def describe(self) -> dict:
        """The architecture as JSON-serialisable fields."""
        return {"arch": asdict(self.arch), "rope_scale": self.rope_scale}


def _last_of(values: Iterator[tuple[str, Tensor]], wanted: set[str], captured: dict[str, Tensor]) -> Tensor:
    """The last of named values; those `wanted` are added to `captured`."""
    for name, value in values:
        if name in wanted:
            captured[name] = value
    return value
