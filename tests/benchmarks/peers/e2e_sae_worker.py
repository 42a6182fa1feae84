"""e2e_sae 2.1.1, the code released with Braun et al. 2024: its model, its losses, and the steps of its training loop.

The loop itself (`run_train_tlens_saes.train`) is not in the published package, so its steps are called here, in its order,
without logging and without gradient accumulation; the loss terms are those of its GPT-2 configurations. The package is
installed with `--no-deps`, and an empty module stands in for a script that its loader imports and its wheel lacks.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import end_to_end_setting as setting
import torch
from torch import Tensor
from worker import LR, Step, bias_for_l0, mean_l0, serve


def make_step(case: str, sample: Tensor) -> tuple[Step, Callable[[], float]]:
    """One full training step on a batch of row numbers, and the L0 on those of the sample."""
    from e2e_sae.losses import InToOrigLoss, LogitsKLLoss, LossConfigs, OutToInLoss, SparsityLoss, calc_loss
    from e2e_sae.models.transformers import SAETransformer
    from e2e_sae.utils import get_cosine_schedule_with_warmup

    local = case.removesuffix(setting.DENSE) == "local"
    kl, downstream = setting.OBJECTIVES[case.removesuffix(setting.DENSE)]
    others = [f"blocks.{layer}.hook_resid_pre" for layer in setting.DOWNSTREAM] if downstream else None
    losses = LossConfigs(
        sparsity=SparsityLoss(coeff=setting.SPARSITY),
        in_to_orig=InToOrigLoss(total_coeff=downstream, hook_positions=others) if others else None,
        out_to_orig=None,
        out_to_in=OutToInLoss(coeff=float(local)),
        logits_kl=LogitsKLLoss(coeff=kl) if kl else None,
    )
    corpus = setting.corpus()
    model = SAETransformer(hooked_transformer(), [setting.HOOK], setting.D_SAE / setting.SHAPE["d_model"])
    model.requires_grad_(False)
    model.saes.requires_grad_(True).train()
    (sae,) = model.saes.values()
    _, known = model.forward_raw(corpus[sample], run_entire_model=False, final_layer=setting.LAYER + 1)
    x = known[setting.HOOK].flatten(0, 1)
    with torch.no_grad():
        start = setting.sae_weights()
        sae.encoder[0].weight.copy_(start["W_enc"].T)
        sae.encoder[0].bias.copy_(start["b_enc"])
        sae.decoder.weight.copy_(start["W_dec"].T)
        sae.decoder.bias.copy_(start["b_dec"])
        if not case.endswith(setting.DENSE):
            sae.encoder[0].bias.fill_(bias_for_l0(x @ start["W_enc"]))
    optimizer = torch.optim.Adam(model.saes.parameters(), lr=LR)
    scheduler = get_cosine_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=100_000)

    def step(rows: Tensor) -> Tensor:
        tokens = corpus[rows]
        last = setting.LAYER + 1 if local else None
        logits, clean = model.forward_raw(tokens, run_entire_model=not local, final_layer=last, cache_positions=others)
        new_logits, new = model(tokens, [setting.HOOK], cache_positions=others, orig_acts=clean if local else None)
        loss, _ = calc_loss(clean, new, None if local else logits.detach().clone(), new_logits, losses)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.saes.parameters(), setting.GRAD_CLIP).item()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        return loss.detach()

    def l0() -> float:
        with torch.no_grad():
            return mean_l0(sae.encoder(x))

    return step, l0


def hooked_transformer() -> torch.nn.Module:
    """The setting's model in transformer_lens; norms without weights, as its `from_pretrained` makes them."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    arch, given = setting.SHAPE, setting.model_weights()
    heads = (arch["n_heads"], arch["d_head"], arch["d_model"])
    names = ("n_layers", "d_model", "n_ctx", "d_head", "n_heads", "d_vocab", "eps")
    cfg = HookedTransformerConfig(**{name: arch[name] for name in names}, act_fn="gelu_new", normalization_type="LNPre")
    model = HookedTransformer(cfg)
    state = {
        "embed.W_E": given["embed"],
        "pos_embed.W_pos": given["pos_embed"],
        "unembed.W_U": given["unembed.W"].T,
        "unembed.b_U": given["unembed.b"],
    }
    for layer in range(arch["n_layers"]):
        attn = f"blocks.{layer}.attn"
        for name, weight, bias in zip("QKV", given[f"{attn}.qkv.W"].chunk(3), given[f"{attn}.qkv.b"].chunk(3), strict=True):
            state[f"{attn}.W_{name}"] = weight.view(heads).transpose(1, 2)
            state[f"{attn}.b_{name}"] = bias.view(heads[:2])
        state[f"{attn}.W_O"] = given[f"{attn}.o.W"].T.reshape(heads)
        state[f"{attn}.b_O"] = given[f"{attn}.o.b"]
        for name in ("in", "out"):
            state[f"blocks.{layer}.mlp.W_{name}"] = given[f"blocks.{layer}.mlp.{name}.W"].T
            state[f"blocks.{layer}.mlp.b_{name}"] = given[f"blocks.{layer}.mlp.{name}.b"]
    missing, unknown = model.load_state_dict(state, strict=False)
    if unknown or any("W_" in name or "b_" in name for name in missing):
        raise ValueError(f"weights do not fit: missing {missing}, unknown {unknown}")
    return model


if __name__ == "__main__":
    script = types.ModuleType("e2e_sae.scripts.train_tlens.run_train_tlens")
    script.HookedTransformerPreConfig = object
    sys.modules.setdefault("e2e_sae.scripts.train_tlens", types.ModuleType("e2e_sae.scripts.train_tlens"))
    sys.modules.setdefault(script.__name__, script)
    serve(
        make_step,
        setting.CASES,
        modules=["e2e_sae.losses", "e2e_sae.models.transformers"],
        packages=["e2e_sae", "transformer-lens"],
        make_batches=setting.batches,
        l0_ranges=setting.L0_RANGES,
    )
