"""Training on a CUDA device: the same losses and gradients as on the CPU, its speed, and whether a step waits for the device.

`python tests/benchmarks/gpu.py --out results/benchmarks/cuda.json`: minutes on an H200. Without a CUDA device it says so and
measures nothing. `--device cpu --small` runs the same code on the CPU, which tells nothing about speed.

correctness: loss and gradients of every architecture against the CPU in float64, in float64, float32, TF32 and bf16; of ReLU and
             its relatives with dense products and with packed entries (`sae.execution.packed`). Float64 shows that all compute the same;
             below it, entries at the threshold of selection may fall on the other side.
sync:        a step that is not logged makes the host wait for nothing (`torch.cuda.set_sync_debug_mode("error")`).
throughput:  tokens per second of `Member.step`, and the share of the encoder's product alone, measured beside it; `packed` says
             whether the steps of ReLU and its relatives packed their entries.
density:     the same with packed entries and with dense products, as more and more entries are active: which is faster where.
end_to_end:  e2e_ds at blocks.6.hook_resid_pre of a GPT of GPT-2 small's shape, random weights.

Everything runs as under `saeworks train --device cuda`, whose deterministic algorithms `throughput` also goes without once.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import json
import math
import os
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import describe
from torch import Tensor
from workers import HERE

from saeworks.config.architectures import ARCHITECTURES
from saeworks.config.training import RunSpec, TrainingConfig
from saeworks.lm.decoder import Architecture, Decoder
from saeworks.lm.sites import Site
from saeworks.sae.base import SAE
from saeworks.sae.build import build_sae
from saeworks.sae.execution.choice import ByDensity
from saeworks.sae.execution.packed import Packed
from saeworks.sae.execution.trial import usable
from saeworks.sae.init import initialise
from saeworks.store.files import write_json
from saeworks.training.clean import CleanPass
from saeworks.training.member import Member
from saeworks.training.objective import Objective

sys.path.insert(0, str(HERE))
import random_gpt  # noqa: E402
from worker import DEAD_SCALE, LR, K, bias_for_l0  # noqa: E402

PRECISIONS = {  # settings of a run
    "float32": {"precision": "float32", "tf32": False},
    "TF32": {"precision": "float32", "tf32": True},
    "bf16": {"precision": "bf16", "tf32": False},
}
LOSS_TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "TF32": 5e-3, "bf16": 3e-2}
GRADIENT_TOLERANCE = {"float64": 1e-9, "float32": 2e-2, "TF32": 0.1, "bf16": 0.3}  # of the norm, the worst parameter
ILL_CONDITIONED = ("relu_ghost",)  # gradients grow like 1/(ghost - residual): in TF32 and bf16 only the loss is compared
CASES: dict[str, dict] = {  # architectures and what else has a path of its own
    "relu": {},
    "topk": {"architecture": "topk"},
    "topk_auxk": {"architecture": "topk", "dead_features": "auxk"},
    "multi_topk": {"architecture": "topk", "multi_topk": True},
    "batch_topk": {"architecture": "batch_topk"},
    "matryoshka": {"architecture": "matryoshka_batch_topk"},
    "gated": {"architecture": "gated"},
    "jumprelu": {"architecture": "jumprelu", "jumprelu_bandwidth": 0.5},  # wide, so that its kernel holds many entries
    "relu_ghost": {"dead_features": "ghost_grads"},
    "relu_e2e_ds": {"objective": "e2e_ds"},
}
NO_SYNC = ("relu", "gated", "jumprelu", "topk", "topk_auxk")  # which must not wait; the others are reported
SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)  # of active entries
_NEVER = 10**9  # steps: no step below it is logged


@dataclass(frozen=True)
class Sizes:
    """What is measured at which sizes."""

    d_sae: int
    batch: int
    gpt: dict
    layer: int
    throughput_d_in: int
    throughput_d_sae: tuple[int, ...]
    throughput_batch: tuple[int, ...]
    big_gpt: dict
    big_layer: int
    big_d_sae: int
    big_rows: int
    seconds: float  # of measuring, per figure


LARGE = Sizes(
    d_sae=8192,  # where the entries are few enough to be packed in every precision
    batch=512,
    gpt=random_gpt.shape(n_layers=4, d_model=256, n_heads=4, d_vocab=2048, n_ctx=64),
    layer=2,
    throughput_d_in=768,
    throughput_d_sae=(24_576, 46_080),
    throughput_batch=(4096, 16_384),
    big_gpt=random_gpt.shape(n_layers=12, d_model=768, n_heads=12, d_vocab=50_257, n_ctx=1024),
    big_layer=6,
    big_d_sae=46_080,
    big_rows=16,
    seconds=1.0,
)
SMALL = Sizes(
    d_sae=1024,
    batch=128,
    gpt=random_gpt.shape(n_layers=3, d_model=32, n_heads=2, d_vocab=128, n_ctx=16),
    layer=1,
    throughput_d_in=32,
    throughput_d_sae=(1024,),
    throughput_batch=(128,),
    big_gpt=random_gpt.shape(n_layers=3, d_model=32, n_heads=2, d_vocab=128, n_ctx=32),
    big_layer=1,
    big_d_sae=1024,
    big_rows=4,
    seconds=0.01,
)


def run_spec(case: str, d_sae: int, batch: int, hook_point: str = "", **settings: object) -> RunSpec:
    """A run of the case; `settings` go before those of the case."""
    given = {**CASES.get(case, {}), **settings}
    objective = given.pop("objective", "local")
    training = {
        "d_sae": d_sae,
        "decoder": "renormalised",
        "pre_bias": True,
        "encoder_init": "transpose",
        "decoder_init": "gaussian",
        "encoder_bias_init": "zero",
        "decoder_bias_init": "zero",
        "batch_tokens": batch,
        "lr": LR,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "log_every": _NEVER,
        **given,
    }
    sparsity = {"k": K} if ARCHITECTURES[training.get("architecture", "relu")].by_k else {"sparsity_coeff": 1.0}
    return RunSpec(
        name=case,
        group=case,
        hook_point=hook_point,
        objective=objective,
        seed=0,
        training=TrainingConfig(**training),
        **sparsity,
    )


def make_sae(spec: RunSpec, x: Tensor, share: float | None = None) -> SAE:
    """The SAE of a run on x's device; ReLU and its relatives start at an L0 of 49 on x (n, d_in), or a share of the entries."""
    sae = build_sae(x.shape[1], spec.training, spec.k).to(x.device)
    initialise(sae, spec.training, torch.Generator(x.device).manual_seed(0))
    with torch.no_grad():
        if spec.training.dead_features != "none":
            sae.W_enc[:, : sae.d_sae // 2] *= DEAD_SCALE
        if spec.k is None:
            pre = x[:256] @ sae.W_enc
            bias = bias_for_l0(pre) if share is None else -float(pre.flatten().topk(int(share * pre.numel())).values[-1])
            sae.b_enc.fill_(1.001 * bias)  # as it is, one entry would be at the very threshold
        if spec.training.architecture == "gated":
            sae.b_mag.copy_(sae.b_enc)
    return sae.train()


def make_model(arch: dict) -> Decoder:
    """A random language model on the CPU."""
    return Decoder(Architecture(**arch), random_gpt.weights(arch, torch.Generator().manual_seed(0)))


# correctness


def residuals(start: int, stop: int) -> list[str]:
    """Hook points of the residuals before the blocks `start` to `stop` − 1."""
    return [f"blocks.{layer}.hook_resid_pre" for layer in range(start, stop)]


def loss_and_gradients(
    spec: RunSpec, sae: SAE, x: Tensor, model: Decoder | None, downstream: list[str], packed: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Loss, and gradients by name, on x (rows, context, d_in); on the CPU in float64. Half of the features count as dead."""
    dead = None
    if spec.training.dead_features != "none":
        dead = torch.arange(sae.d_sae, device=x.device) < sae.d_sae // 2
    clean = None
    if model is not None:
        clean = CleanPass(model, Site.parse(spec.hook_point, model.arch), x, x, downstream)
    flat = x.flatten(0, -2)
    execution = ByDensity()
    if packed:
        execution = Packed(dense_above=1.0)
        execution.entries = len(flat) * sae.d_sae  # room for all
    objective = Objective(spec, downstream)
    loss = objective.total(objective.terms(sae, execution, flat, clean, dead)[0])
    loss.backward()
    sae.before_step()
    return loss.item(), {name: p.grad.double().cpu() for name, p in sae.named_parameters() if p.grad is not None}


def correctness(device: torch.device, sizes: Sizes) -> list[dict]:
    """A row for each case and precision: relative differences of loss and gradients from the CPU in float64."""
    rows = []
    context, site = sizes.gpt["n_ctx"], f"blocks.{sizes.layer}.hook_resid_pre"
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(sizes.gpt["d_vocab"], (sizes.batch // context, context), generator=generator)
    model = make_model(sizes.gpt).to(dtype=torch.float64)
    x = model.hook_values(tokens, [site])[site]
    for case in CASES:
        end_to_end = CASES[case].get("objective") is not None
        language_model = model if end_to_end else None
        downstream = residuals(sizes.layer + 1, sizes.gpt["n_layers"]) if end_to_end else []
        spec = run_spec(case, sizes.d_sae, sizes.batch, site)
        sae = make_sae(spec, x.float().flatten(0, 1))
        expected = loss_and_gradients(spec, copy.deepcopy(sae).double(), x, language_model, downstream)
        paths = (False, True) if sae.elementwise and usable(device) else (False,)
        for precision, packed in itertools.product(("float64", *PRECISIONS), paths):

            def compare(
                case=case,
                precision=precision,
                packed=packed,
                sae=sae,
                language_model=language_model,
                downstream=downstream,
                expected=expected,
            ):
                settings = PRECISIONS.get(precision, {})
                dtype = torch.float64 if precision == "float64" else torch.float32
                torch.backends.cuda.matmul.allow_tf32 = settings.get("tf32", False)
                found = loss_and_gradients(
                    run_spec(case, sizes.d_sae, sizes.batch, site, **settings),
                    copy.deepcopy(sae).to(device, dtype),
                    x.to(device, dtype),
                    language_model and language_model.to(device, dtype),
                    downstream,
                    packed,
                )
                return [difference(case, precision, packed, found, expected)]

            rows += guarded({"case": case, "precision": precision, "packed": packed}, compare)
    torch.backends.cuda.matmul.allow_tf32 = False
    return rows


def difference(
    case: str, precision: str, packed: bool, found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]
) -> dict:
    """How far loss and gradients are from the expected ones; printed."""
    loss = abs(found[0] - expected[0]) / abs(expected[0])
    pairs = {name: (found[1][name], g) for name, g in expected[1].items() if g.norm() > 0}
    by_norm = {name: ((f - g).norm() / g.norm()).item() for name, (f, g) in pairs.items()}
    by_max = max(((f - g).abs().max() / g.abs().max()).item() for f, g in pairs.values())
    worst = max(by_norm, key=by_norm.get)
    loose = case in ILL_CONDITIONED and precision in ("TF32", "bf16")
    fits = loss <= LOSS_TOLERANCE[precision] and (loose or by_norm[worst] <= GRADIENT_TOLERANCE[precision])
    name = f"{case:<12} {precision:<8} {'packed' if packed else '':<6}"
    print(
        f"{name} loss {loss:.1e}   gradients {by_norm[worst]:.1e} of the norm ({worst}), {by_max:.1e} of the maximum"
        f"{'' if fits else '   BEYOND TOLERANCE'}",
        flush=True,
    )
    return {
        "case": case,
        "precision": precision,
        "packed": packed,
        "loss": found[0],
        "loss_difference": loss,
        "gradient_difference_of_norm": by_norm[worst],
        "worst_parameter": worst,
        "gradient_difference_of_maximum": by_max,
        "within_tolerance": fits,
    }


# steps


class Steps:
    """Training steps on x (rows, context, d_in), one per call, as the trainer makes them."""

    def __init__(
        self, spec: RunSpec, x: Tensor, model: Decoder | None, downstream: list[str], share: float | None = None
    ) -> None:
        self.spec, self.x, self.model, self.downstream = spec, x, model, downstream
        self.flat = x.flatten(0, -2).float()
        sae = make_sae(spec, self.flat, share)
        self.member = Member(spec, sae, Objective(spec, downstream), _NEVER, lambda step: self.flat)
        self.site = model and Site.parse(spec.hook_point, model.arch)
        self.done = 0

    def __call__(self) -> None:
        settings, member = self.spec.training, self.member
        torch.backends.cuda.matmul.allow_tf32 = settings.tf32
        if settings.dead_features != "none":
            member.silent[: member.sae.d_sae // 2] = settings.dead_window_tokens
        clean = None if self.model is None else CleanPass(self.model, self.site, self.x, self.x, self.downstream)
        member.step(self.done, self.flat, clean)
        self.done += 1

    @property
    def packed(self) -> bool:
        """Whether the next step packs its entries."""
        execution = self.member.execution
        return isinstance(execution, Packed) and execution.capacity(len(self.flat), self.member.sae.d_sae) is not None


@contextlib.contextmanager
def no_sync(device: torch.device) -> Iterator[None]:
    """An error where the host would wait for the device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def sync(device: torch.device, sizes: Sizes) -> list[dict]:
    """Whether a step that is not logged waits, per case, precision and deterministic mode; where it first does, if so."""
    rows = []
    model = make_model(sizes.gpt).to(device)
    site = f"blocks.{sizes.layer}.hook_resid_pre"
    context = sizes.gpt["n_ctx"]
    tokens = torch.randint(sizes.gpt["d_vocab"], (sizes.batch // context, context)).to(device)
    x = model.hook_values(tokens, [site])[site]
    downstream = residuals(sizes.layer + 1, sizes.gpt["n_layers"])
    for case in CASES:
        end_to_end = CASES[case].get("objective") is not None
        for precision in ("float32", "bf16"):
            for deterministic in (True, False):
                row = {
                    "case": case,
                    "precision": precision,
                    "deterministic": deterministic,
                    "packed": False,
                    "waits": False,
                    "at": None,
                }
                torch.use_deterministic_algorithms(deterministic, warn_only=True)
                try:
                    spec = run_spec(case, sizes.d_sae, sizes.batch, site, **PRECISIONS[precision])
                    step = Steps(spec, x, model if end_to_end else None, downstream if end_to_end else [])
                    for _ in range(2):
                        step()
                    synchronise(device)
                    row["packed"] = step.packed
                    with no_sync(device):
                        step()
                except RuntimeError as error:
                    message = str(error).splitlines()[0]
                    row |= {"waits": "synchroniz" in message, "error": message, "at": innermost(error)}
                row["must_not"] = case in NO_SYNC and precision == "float32"
                rows.append(row)
                print(
                    f"{case:<12} {precision:<8} {'deterministic' if deterministic else 'any algorithm':<13} "
                    f"{'packed' if row['packed'] else '':<6} "
                    + (
                        f"{'waits' if row['waits'] else 'fails'} at {row['at']}: {row['error']}" if row["at"] else "does not wait"
                    ),
                    flush=True,
                )
    torch.use_deterministic_algorithms(device.type == "cuda", warn_only=True)
    return rows


def innermost(error: Exception) -> str:
    """The last line of the package that the error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "saeworks" in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "this script"


# speed


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_per_call(function: Callable[[], object], device: torch.device, budget: float) -> list[float]:
    """Seconds of a call, from five rounds of as many calls as fill the budget, after a warm-up."""
    for _ in range(3):
        function()
    synchronise(device)
    started = time.perf_counter()
    function()
    synchronise(device)
    calls = max(1, math.ceil(budget / 5 / (time.perf_counter() - started)))
    rounds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        synchronise(device)
        rounds.append((time.perf_counter() - started) / calls)
    return rounds


def encoder_product(d_in: int, d_sae: int, batch: int, precision: str, device: torch.device, budget: float) -> float:
    """Tokens per second of x W + b alone, into memory that is there already."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x, weight, bias, out = (
        torch.randn(*size, device=device, dtype=dtype) for size in ((batch, d_in), (d_in, d_sae), (d_sae,), (batch, d_sae))
    )
    torch.backends.cuda.matmul.allow_tf32 = PRECISIONS[precision]["tf32"]
    return batch / statistics.median(seconds_per_call(lambda: torch.addmm(bias, x, weight, out=out), device, budget / 2))


def reset_memory(device: torch.device) -> None:
    """Free what is unused, and start the peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """The most memory that tensors took since `reset_memory`."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def figure(row: dict, step: Steps, tokens: int, ceiling: float | None, device: torch.device, budget: float) -> dict:
    """`row` with the speed of a step; printed."""
    seconds = seconds_per_call(step, device, budget)
    row |= {
        "tokens_per_s": tokens / statistics.median(seconds),
        "lowest": tokens / max(seconds),
        "highest": tokens / min(seconds),
        "ms_per_step": 1e3 * statistics.median(seconds),
        "peak_gib": peak_gib(device),
        "packed": step.packed,
    }
    text = "  ".join(f"{value:<10}" if isinstance(value, str) else f"{value:>6}" for value in list(row.values())[: len(row) - 6])
    text += f"  {row['tokens_per_s']:>12,.0f} tokens/s  {row['ms_per_step']:>8.2f} ms"
    if ceiling is not None:
        row |= {"encoder_product_tokens_per_s": ceiling, "fraction_of_encoder_product": row["tokens_per_s"] / ceiling}
        text += f"  {100 * row['fraction_of_encoder_product']:>5.1f} % of x W+b"
    print(text + (f"  {row['peak_gib']:.1f} GiB" if row["peak_gib"] else "") + ("  packed" if step.packed else ""), flush=True)
    return row


def throughput(device: torch.device, sizes: Sizes) -> list[dict]:
    """Architectures at each size and precision; at the largest also without deterministic algorithms."""
    d_in, rows = sizes.throughput_d_in, []
    for d_sae in sizes.throughput_d_sae:
        for batch in sizes.throughput_batch:
            x = torch.randn(1, batch, d_in, device=device)
            largest = d_sae == max(sizes.throughput_d_sae) and batch == max(sizes.throughput_batch)
            for precision, settings in PRECISIONS.items():
                ceiling = encoder_product(d_in, d_sae, batch, precision, device, sizes.seconds)
                for case in ("relu", "gated", "jumprelu", "topk", "batch_topk"):
                    for deterministic in (True, False) if largest else (True,):
                        row = {"case": case, "precision": precision, "d_sae": d_sae, "batch": batch}
                        row["algorithms"] = "deterministic" if deterministic else "any"
                        rows += guarded(
                            row,
                            lambda row=row, case=case, settings=settings, x=x, ceiling=ceiling: [
                                figure(
                                    row,
                                    Steps(run_spec(case, row["d_sae"], row["batch"], **settings), x, None, []),
                                    row["batch"],
                                    ceiling,
                                    device,
                                    sizes.seconds,
                                )
                            ],
                            device,
                            deterministic,
                        )
    return rows


def density(device: torch.device, sizes: Sizes) -> list[dict]:
    """ReLU at the largest size with packed entries and with dense products, at each precision and share of active entries."""
    d_in, d_sae, batch, rows = sizes.throughput_d_in, max(sizes.throughput_d_sae), max(sizes.throughput_batch), []
    x = torch.randn(1, batch, d_in, device=device)
    for precision, settings in PRECISIONS.items():
        for share, packs in itertools.product(SHARES, (True, False) if usable(device) else (False,)):
            row = {"case": "relu", "precision": precision, "d_sae": d_sae, "batch": batch, "share": share}

            def measure(row: dict = row, settings: dict = settings, share: float = share, packs: bool = packs) -> list[dict]:
                step = Steps(run_spec("relu", d_sae, batch, **settings), x, None, [], share)
                step.member.execution = Packed(dense_above=1.0) if packs else ByDensity()
                return [figure(row, step, batch, None, device, sizes.seconds)]

            rows += guarded(row, measure, device)
    return rows


def end_to_end(device: torch.device, sizes: Sizes) -> list[dict]:
    """e2e_ds in the precisions of SAE and language model; those that the package does not know are left out with a sentence."""
    arch = sizes.big_gpt
    site = f"blocks.{sizes.big_layer}.hook_resid_pre"
    downstream = residuals(sizes.big_layer + 1, arch["n_layers"])
    model = make_model(arch).to(device)
    tokens = torch.randint(arch["d_vocab"], (sizes.big_rows, arch["n_ctx"]), generator=torch.Generator().manual_seed(1))
    x = model.hook_values(tokens.to(device), [site])[site]
    variants = {  # name: of the SAE, of the language model
        "float32": (PRECISIONS["float32"], torch.float32),
        "TF32": (PRECISIONS["TF32"], torch.float32),
        "SAE bf16, model TF32": ({"precision": "bf16", "tf32": True}, torch.float32),
        "SAE TF32, model bf16": (PRECISIONS["TF32"], torch.bfloat16),
        "SAE bf16, model bf16": ({"precision": "bf16", "tf32": True}, torch.bfloat16),
    }
    rows = []
    for name, (settings, dtype) in variants.items():
        row = {"objective": "e2e_ds", "precision": name, "d_sae": sizes.big_d_sae, "batch": tokens.numel()}

        def measure(row: dict = row, settings: dict = settings, dtype: torch.dtype = dtype) -> list[dict]:
            spec = run_spec("relu_e2e_ds", sizes.big_d_sae, tokens.numel(), site, **settings)
            language_model = model if dtype == torch.float32 else model.to(dtype=dtype)
            return [figure(row, Steps(spec, x, language_model, downstream), tokens.numel(), None, device, 3 * sizes.seconds)]

        rows += guarded(row, measure, device)
    return rows


def guarded(
    row: dict, measure: Callable[[], list[dict]], device: torch.device | None = None, deterministic: bool | None = None
) -> list[dict]:
    """What `measure` returns; an error becomes a row, so that the other figures are still measured."""
    if device is not None:
        reset_memory(device)
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic is False:
        torch.use_deterministic_algorithms(False)
    try:
        return measure()
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # out of memory is a RuntimeError
        message = str(error).splitlines()[0]
        print("  ".join(str(value) for value in row.values()) + f"  not measured, {innermost(error)}: {message}", flush=True)
        return [row | {"error": message, "at": innermost(error)}]
    finally:
        torch.use_deterministic_algorithms(before, warn_only=True)


PARTS = {"correctness": correctness, "sync": sync, "throughput": throughput, "density": density, "end_to_end": end_to_end}


def failures(results: dict[str, list[dict]]) -> list[str]:
    """Which demands are not met."""
    found = []
    for row in results.get("correctness", []):
        if not row.get("within_tolerance"):
            fault = "fails" if "error" in row else "differs from the CPU"
            found.append(f"{row['case']} in {row['precision']}{' with packed entries' if row['packed'] else ''} {fault}")
    waiting = {row["case"] for row in results.get("sync", []) if row["at"] and row["must_not"]}
    return found + [f"{case} waits for the device, or fails, in a step that is not logged" for case in sorted(waiting)]


def main() -> None:
    """The parts in turn; the JSON file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the code")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    device, sizes = torch.device(options.device), SMALL if options.small else LARGE
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here; tests/benchmarks/gpu.py measures nothing.")
        return
    if device.type == "cuda":  # as `saeworks.cli` does
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    warnings.filterwarnings("ignore")
    machine = describe(torch.get_num_threads())
    if device.type == "cuda":
        machine |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    print(json.dumps(machine), flush=True)
    record = {"command": " ".join(["python", *sys.argv]), "machine": machine, "small": options.small, "k": K, "seconds": {}}
    results: dict[str, list[dict]] = {}
    for name in options.parts:
        print(f"\n{name}", flush=True)
        started = time.perf_counter()
        results[name] = PARTS[name](device, sizes)
        record["seconds"][name] = time.perf_counter() - started
        write_json(options.out, record | results)
    if failed := failures(results):
        raise SystemExit("\n" + "; ".join(failed))


if __name__ == "__main__":
    main()
