"""TransformerBridge: booting any Hugging Face causal language model, and running it when no faster path fits."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..config.model import HubModel, ModelConfig, OwnModel
from ..store.errors import UserError
from ..store.files import begins_at
from .decoder import Architecture, Decoder
from .sites import Site, residual_before, splice

OWN_MODELS = Path("data/models")
# the two runs that are compared differ by rounding; a block that does not add up is off by orders of magnitude more
_SPLICE_TOLERANCE = 1e-3


def model_location(model: ModelConfig) -> str:
    """Directory or hub name to load from.

    Raises:
        UserError: a local directory is missing or is no Hugging Face model.
    """
    if isinstance(model, HubModel):
        not_local(model.name, "model", f"`source: path` and `path: {model.name}`")
        return model.name
    own = isinstance(model, OwnModel)
    folder = OWN_MODELS / model.name if own else Path(model.path)
    mend = f"fetch it with `dvc pull --force {folder}`" if own else "correct `model.path`"
    if not folder.is_dir():
        raise UserError(f"model directory {folder} does not exist{begins_at(folder)}; {mend}.")
    if not (folder / "config.json").is_file():
        raise UserError(f"model directory {folder} holds no config.json, so it is not a Hugging Face model; {mend}.")
    return str(folder)


def not_local(name: str, block: str, mend: str) -> None:
    """Refuse a name of the hub under which a folder lies here: the libraries would read that without a word.

    Raises:
        UserError: there is such a folder.
    """
    if Path(name).exists():
        raise UserError(
            f"`{block}.name` is {name!r} with `source: hub`, but {Path(name).absolute()} exists, and would be read instead; set {mend} "
            "to read it, or give it another name."
        )


def boot(model: ModelConfig, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Load the model as a TransformerBridge with the configured weight processing.

    Raises:
        UserError: the model cannot be loaded.
    """
    from transformer_lens.model_bridge import TransformerBridge  # slow import

    location = model_location(model)
    options = {"revision": model.revision} if isinstance(model, HubModel) else {}
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            bridge = TransformerBridge.boot_transformers(location, device=device, dtype=dtype, **options)
            bridge.enable_compatibility_mode(disable_warnings=True, **model.processing.model_dump())
    except Exception as error:  # the loader raises OSError, ValueError, KeyError, safetensors errors … for bad input
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        mend = "check its name and the network" if isinstance(model, HubModel) else "put a whole Hugging Face model there"
        raise UserError(f"model {location} cannot be loaded: {first_line.rstrip('.')}; {mend}.") from error
    for parameter in bridge.parameters():
        parameter.requires_grad_(False)
    return bridge


class BridgeModel:
    """The interface of `Decoder` on a TransformerBridge: slower, for families that `Decoder` does not know."""

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        cfg = bridge.cfg
        names = ("n_layers", "d_model", "n_heads", "d_head", "d_vocab", "n_ctx")
        parallel = bool(getattr(cfg, "parallel_attn_mlp", False))
        self.arch = SimpleNamespace(**{name: getattr(cfg, name) for name in names}, parallel=parallel)
        parameter = next(bridge.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.W_U = bridge.unembed.W_U.T.contiguous()
        self.b_U = getattr(bridge.unembed, "b_U", None)
        cap = getattr(cfg, "output_logits_soft_cap", None)
        self.soft_cap: float | None = cap if cap is not None and cap > 0 else None
        self._continues: dict[str, bool] = {}

    def embed(self, tokens: Tensor, offset: int = 0) -> Tensor:
        """`blocks.0.hook_resid_pre` of whole rows."""
        if offset:
            raise UserError(f"sampling from {self.bridge.cfg.model_name} is not supported; use a `text` or `hub` corpus.")
        return self.bridge(tokens, stop_at_layer=0, return_type=None)

    def blocks(
        self, resid: Tensor, start: int, stop: int, capture: Iterable[str] = (), cache: None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Decoder.blocks`."""
        if stop == start:
            last = residual_before(self.arch.n_layers, self.arch.n_layers)
            return resid, {last: resid} if stop == self.arch.n_layers and last in capture else {}
        sites = [Site.parse(name, self.arch) for name in capture]
        captured = {site.name: resid for site in sites if site.kind == "resid_pre" and site.layer == start}
        inside = [site for site in sites if start <= site.layer and site.resume <= stop and site.name not in captured]
        end = f"blocks.{stop - 1}.hook_resid_post"
        values: dict[str, Tensor] = {}
        hooks = [self._capturing(site, values) for site in inside]
        hooks.append((end, lambda value, hook: values.update({"": value})))
        self.bridge.run_with_hooks(
            resid, start_at_layer=start, stop_at_layer=stop if stop < self.arch.n_layers else None, fwd_hooks=hooks
        )
        return values.pop(""), captured | values

    def _capturing(self, site: Site, values: dict[str, Tensor]) -> tuple[str, Callable[..., None]]:
        """A hook that stores the value at `site` under its name, heads concatenated; not for the first block's input."""
        # a residual after a block, so that the block that it enters need not start
        hook = f"blocks.{site.layer - 1}.hook_resid_post" if site.kind == "resid_pre" else site.name
        return self._existing(hook), lambda value, hook: values.update({site.name: value.flatten(2)})

    def hook_values(self, tokens: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """As `Decoder.hook_values`.

        Raises:
            UserError: a hook point does not exist, in any model like this or in what the bridge makes of it.
        """
        sites = [Site.parse(name, self.arch) for name in names]
        values: dict[str, Tensor] = {}
        hooks = []
        for site in sites:
            if site.kind == "resid_pre" and site.layer == 0:
                values[site.name] = self.embed(tokens)
            else:
                hooks.append(self._capturing(site, values))
        stop = max((site.resume for site in sites), default=0)
        if hooks:
            self.bridge.run_with_hooks(tokens, stop_at_layer=stop if stop < self.arch.n_layers else None, fwd_hooks=hooks)
        return values

    def continue_from(
        self,
        site: Site,
        replacement: Tensor,
        clean_value: Tensor | None = None,
        stream_value: Tensor | None = None,
        capture: Iterable[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As `Decoder.continue_from`.

        Raises:
            UserError: the parts of this model's blocks do not simply add up in the residual stream.
        """
        if site.kind not in ("resid_pre", "resid_post"):
            self._check_continues(site)
        return self._continue(site, replacement, clean_value, stream_value, capture)

    def _continue(self, site: Site, replacement, clean_value, stream_value, capture) -> tuple[Tensor, dict[str, Tensor]]:
        W_O = self.bridge.blocks[site.layer].attn.W_O.flatten(0, 1) if site.kind == "z" else None
        resid = splice(site, replacement, clean_value, stream_value, W_O)
        first: dict[str, Tensor] = {}
        if site.in_block:  # the bridge starts at whole blocks: with its attention silenced, this one hands its input to the MLP
            silence = (self._existing(f"blocks.{site.layer}.hook_attn_out"), lambda value, hook: torch.zeros_like(value))
            with self.bridge.hooks(fwd_hooks=[silence]):
                resid, first = self.blocks(resid, site.layer, site.layer + 1, capture)
        last, later = self.blocks(resid, site.resume, self.arch.n_layers, capture)
        return last, first | later

    @torch.no_grad()
    def _check_continues(self, site: Site) -> None:
        """Once per site, on a few tokens: zeros spliced in must do what zeros returned by the bridge's own hook do."""
        name = f"blocks.{site.layer}.hook_attn_out" if site.kind == "resid_mid" else site.name  # what enters between the halves
        if name not in self._continues:
            probe, last = Site.parse(name, self.arch), f"blocks.{self.arch.n_layers - 1}.hook_resid_post"
            tokens = torch.arange(min(8, self.arch.n_ctx, self.arch.d_vocab), device=self.device)[None]
            values = self.hook_values(tokens, [name, probe.stream])
            with self.bridge.hooks(fwd_hooks=[(name, lambda value, hook: torch.zeros_like(value))]):
                expected = self.hook_values(tokens, [last])[last]
            got, _ = self._continue(probe, torch.zeros_like(values[name]), values[name], values[probe.stream], ())
            self._continues[name] = bool((got - expected).abs().max() <= _SPLICE_TOLERANCE * expected.abs().max())
        if not self._continues[name]:
            raise UserError(
                f"this model cannot be continued from {site.name}: it runs through TransformerBridge, and its blocks do more than add "
                "their parts to the residual; train end-to-end SAEs at `hook_resid_pre` or `hook_resid_post`."
            )

    def _existing(self, hook: str) -> str:
        if hook not in self.bridge.hook_dict:
            raise UserError(
                f"TransformerBridge has no hook point {hook} in this model; use `hook_resid_pre` or `hook_resid_post`."
            )
        return hook

    def final_norm(self, resid: Tensor) -> Tensor:
        """The normalised residual that the unembedding reads."""
        return self.bridge.ln_final(resid)

    def logits(self, resid: Tensor) -> Tensor:
        """Logits of a residual after the last block."""
        logits = self.bridge.unembed(self.final_norm(resid))
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of whole rows."""
        return self.bridge(tokens)


def extract_decoder(bridge: Any) -> Decoder:
    """The processed weights of a bridge as a `Decoder`.

    Raises:
        NotImplementedError: the family, or a variant of it, is not covered.
    """
    hf = bridge.original_model.config
    family = hf.model_type
    if family not in ("gpt2", "gpt_neo", "gpt_neox", "llama", "mistral", "qwen2"):
        raise NotImplementedError(f"model family {family!r}")
    cfg = bridge.cfg
    n_kv = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    inv_freq, rope_scale = _rotary(bridge.original_model)
    scale = 1.0 if family == "gpt_neo" else cfg.d_head**-0.5
    if getattr(hf, "scale_attn_by_inverse_layer_idx", False):
        raise NotImplementedError("attention scaled by layer")
    arch = Architecture(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        n_heads=cfg.n_heads,
        n_kv_heads=n_kv,
        d_head=cfg.d_head,
        d_vocab=cfg.d_vocab,
        n_ctx=cfg.n_ctx,
        norm="rms" if cfg.uses_rms_norm else "layer",
        eps=cfg.eps,
        rotary_dim=0 if inv_freq is None else 2 * len(inv_freq),
        activation={"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}.get(cfg.act_fn, cfg.act_fn),
        parallel=family == "gpt_neox" and bool(getattr(hf, "use_parallel_residual", True)),
        attn_scale=scale,
        windows=_windows(hf, cfg.n_layers),
    )
    weights = {"embed": bridge.W_E, "unembed.W": bridge.W_U.T, "unembed.b": getattr(bridge, "b_U", None)}
    if inv_freq is None:
        weights["pos_embed"] = bridge.W_pos
    else:
        weights["inv_freq"] = inv_freq
    weights |= _norm_weights("ln_final", bridge.ln_final)
    for layer, block in enumerate(bridge.blocks):
        weights |= {f"blocks.{layer}.{k}": v for k, v in _block_weights(block).items()}
    return Decoder(arch, {k: v.detach().clone().contiguous() for k, v in weights.items() if v is not None}, rope_scale)


def _windows(hf: Any, n_layers: int) -> tuple[int, ...]:
    if hf.model_type == "gpt_neo":
        return tuple(hf.window_size if kind == "local" else 0 for kind in hf.attention_layers)
    kinds = getattr(hf, "layer_types", None)
    window = getattr(hf, "sliding_window", None) or 0
    if kinds is not None:
        return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
    return (window if hf.model_type == "mistral" else 0,) * n_layers


def _rotary(model: Any) -> tuple[Tensor | None, float]:
    for module in model.modules():
        if getattr(module, "inv_freq", None) is not None:
            return module.inv_freq, float(getattr(module, "attention_scaling", 1.0))
    return None, 1.0


def _optional(owner: Any, name: str) -> Tensor | None:
    try:
        return getattr(owner, name)
    except AttributeError:
        return None


def _norm_weights(name: str, norm: Any) -> dict[str, Tensor | None]:
    return {f"{name}.w": _optional(norm, "weight"), f"{name}.b": _optional(norm, "bias")}


def _block_weights(block: Any) -> dict[str, Tensor | None]:
    attn, mlp = block.attn, block.mlp

    def heads_out(name: str) -> Tensor:  # (heads, d_model, d_head) -> (heads * d_head, d_model)
        weight = getattr(attn, name)
        return weight.transpose(1, 2).reshape(-1, weight.shape[1])

    biases = [_optional(attn, f"b_{x}") for x in "QKV"]
    if any(b is not None for b in biases):
        flat = [
            torch.zeros(heads_out(f"W_{x}").shape[0]) if b is None else b.flatten() for x, b in zip("QKV", biases, strict=True)
        ]
        qkv_bias = torch.cat([b.to(attn.W_Q) for b in flat])
    else:
        qkv_bias = None
    weights = {
        "attn.qkv.W": torch.cat([heads_out("W_Q"), heads_out("W_K"), heads_out("W_V")]),
        "attn.qkv.b": qkv_bias,
        "attn.o.W": attn.W_O.flatten(0, 1).T,
        "attn.o.b": _optional(attn, "b_O"),
        "mlp.in.W": mlp.W_in.T,
        "mlp.in.b": _optional(mlp, "b_in"),
        "mlp.out.W": mlp.W_out.T,
        "mlp.out.b": _optional(mlp, "b_out"),
    }
    gate = _optional(mlp, "W_gate")
    if gate is not None:
        weights |= {"mlp.gate.W": gate.T, "mlp.gate.b": _optional(mlp, "b_gate")}
    return weights | _norm_weights("ln1", block.ln1) | _norm_weights("ln2", block.ln2)
