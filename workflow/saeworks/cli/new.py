"""`saeworks new`: a commented experiment file to start from."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from ..config.names import Name
from ..store.errors import UserError

TEMPLATE = """\
# yaml-language-server: $schema=../workflow/schemas/config.schema.json
# Four SAEs of one layer of the default model, a few minutes on 2 cores. These are the keys that people change first; every key is
# in config/README.md. After a change, only what depends on the changed key is computed again.
experiment: "{experiment}" # results go to results/{experiment}/

# The language model. `novels-1m` has 8 layers and comes with this repository (`dvc pull novels-1m`). One from the Hugging Face hub:
# `source: hub`, `name: roneneldan/TinyStories-1M`; one in a folder: `source: path`, `name: mine`, `path: <folder>`.
model:
  source: own
  name: novels-1m

# The text. `sampled` has the model write it, which needs no download; `text` with `files: [<path>]` takes files of yours, `hub` a
# dataset of the Hugging Face hub.
corpus:
  source: sampled
  n_tokens: 2_000_000 # to train on
  eval_tokens: 65_536 # held out, to evaluate on
  context: 128 # tokens per row

training:
  architecture: relu # or gated, jumprelu; topk, batch_topk and matryoshka_batch_topk take `k` instead of `sparsity_coeffs`
  d_sae: 1024 # features of an SAE
  n_tokens: 800_000 # tokens to train on, more than once if there are fewer
  batch_tokens: 1024 # tokens per step
  lr: 5.0e-3 # learning rate

# A group trains an SAE for each of its hook points, sparsities and seeds. Objectives: `local` reconstructs the activations, `e2e` the
# model's output, `e2e_ds` the output and the activations of later layers; `finetune` continues the runs of another group.
runs:
  local:
    objective: local
    hook_points: [blocks.4.hook_resid_pre] # where the SAEs sit: blocks.<layer>.hook_resid_pre, hook_mlp_out, ...
    sparsity_coeffs: [0.5, 3] # λ, each an SAE: the higher, the fewer features are active
    seeds: [0] # [0, 1] trains each twice, to see what differs by chance
  e2e_ds:
    objective: e2e_ds
    hook_points: [blocks.4.hook_resid_pre]
    sparsity_coeffs: [3, 16]
"""


def new(experiment: str, /) -> None:
    """Write a commented experiment file to start from, `config/<experiment>.yaml`.

    Args:
        experiment: name of the experiment, that its file and its folder under results/ get.

    Raises:
        UserError: the name cannot be that of a folder, or is taken, or this is not the root of the repository.
    """
    try:
        TypeAdapter(Name).validate_python(experiment)
    except ValidationError:
        raise UserError(
            f"an experiment cannot be named {experiment!r}; use letters, digits, `.`, `_` and `-`, beginning with a letter or digit."
        ) from None
    if not Path("workflow/Snakefile").exists():
        raise UserError(f"{Path.cwd()} is not the root of the repository (it has no workflow/Snakefile); run this command there.")
    path = Path("config") / f"{experiment}.yaml"
    if taken := [other for other in sorted(path.parent.glob("*.yaml")) if other == path or _is_of(experiment, other)]:
        raise UserError(f"{taken[0]} is there already; choose another name than {experiment!r}, or edit that file.")
    path.write_text(TEMPLATE.format(experiment=experiment), encoding="utf-8")
    print(
        f"{path} is written; edit it, then see what would be computed, and compute it:\n\n"
        f"  snakemake -n --configfile {path}\n"
        f"  snakemake --cores all --configfile {path}"
    )


def _is_of(experiment: str, path: Path) -> bool:
    return (
        re.search(rf"^experiment:\s*[\"']?{re.escape(experiment)}[\"']?\s*(#|$)", path.read_text("utf-8"), flags=re.MULTILINE)
        is not None
    )
