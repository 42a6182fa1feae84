"""One SAE run: objective, architecture, recipe, budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .architectures import ARCHITECTURES
from .base import Frozen, Seed
from .names import AnyHookPoint
from .objectives import OBJECTIVES, PENALTIES, RECONSTRUCTION_ERRORS

ObjectiveName = Literal[tuple(OBJECTIVES)]
ArchitectureName = Literal[tuple(ARCHITECTURES)]
Preset = Literal["braun2024", "bloom2024", "gao2024", "gated2024", "anthropic-april2024", "batchtopk2024"]

Share = Annotated[float, Field(ge=0, le=1)]


class TrainingConfig(*(facts.options for facts in ARCHITECTURES.values())):
    """Settings shared by all runs of an experiment; a run group may override any of them.

    The base classes are the options of the architectures, each declared in its own file.
    """

    preset: Preset | None = Field(
        None,
        description="A paper's recipe; what is written here or in the group goes before it. Sizes and budgets are not part of it.",
    )

    # architecture
    architecture: ArchitectureName = Field("relu", description="How features are computed from activations.")
    d_sae: PositiveInt = Field(1024, le=2**24, description="Dictionary size.")
    decoder: Literal["normalised", "renormalised", "free"] = Field(
        "normalised",
        description="Rows of the decoder: `normalised` in the forward pass (Braun), `renormalised` after each step with the "
        "parallel part of the gradient removed (Bloom), or `free` (Anthropic, April 2024).",
    )
    pre_bias: bool = Field(False, description="Subtract the decoder bias from the input of the encoder.")

    # loss
    mse_norm: Literal[tuple(RECONSTRUCTION_ERRORS)] = Field(
        "d_in",
        description="Reconstruction error, always averaged over tokens and d_in: as it is, with the sparsity penalty divided by d_in too "
        "(`d_in`, Braun); divided by the norm of each input (`input_norm`, Bloom); or by the variance of the data (`variance`, Gao).",
    )
    penalty: Literal[tuple(PENALTIES)] | None = Field(
        None,
        description="Sparsity penalty: `l1`, `lp` (Σ|c|ᵖ), `l1_decoder_norm` (Anthropic, April 2024), `tanh`, `l0` (JumpReLU only); "
        "null: `l0` for `jumprelu`, `l1` otherwise.",
    )
    lp_p: PositiveFloat = Field(0.5, description="`lp`: the exponent p.")
    tanh_scale: PositiveFloat = Field(1.0, description="`tanh`: factor of the activation inside the tanh.")
    sparsity_warmup_fraction: Share = Field(
        0.0, description="Share of the steps over which the sparsity coefficient rises linearly from 0."
    )
    reconstruction_coeff: NonNegativeFloat | None = Field(
        None,
        description="Weight of the reconstruction error at the SAE; null: 1 for `local`, 0.5 for `finetune`, else 0. Above 0, `e2e` and `e2e_ds` are mixtures.",
    )
    kl_coeff: NonNegativeFloat | None = Field(
        None,
        description="Weight κ of the KL divergence; null: the paper's (1 for `e2e`, 0.5 for `e2e_ds` and `finetune`). `finetune` scales the KL to the value of the reconstruction error first.",
    )
    downstream_coeff: NonNegativeFloat | None = Field(
        None,
        description="Total weight β of downstream reconstruction, split evenly over the hook points; null: 2.5 for `e2e_ds`, 0 for `finetune`.",
    )
    downstream_hook_points: Annotated[list[AnyHookPoint], Field(min_length=1)] | None = Field(
        None,
        description="Hook points after the SAE that are reconstructed downstream (`blocks.L.hook_resid_pre`, `hook_resid_mid`, "
        "`hook_resid_post`, `hook_mlp_out`, `hook_attn_out`, `attn.hook_z`); null: every later `hook_resid_pre`, as in the paper.",
    )
    downstream_next: PositiveInt | None = Field(
        None,
        le=1000,
        description="Reconstruct at the next N `hook_resid_pre` after the SAE only; instead of `downstream_hook_points`.",
    )

    # initialisation
    encoder_init: Literal["linear", "kaiming", "kaiming_d_sae", "transpose"] = Field(
        "linear",
        description="Encoder: uniform in ±1/√d_in (`linear`), Kaiming uniform by d_in (`kaiming`) or by d_sae (`kaiming_d_sae`: Bloom, whose encoder is stored transposed), or the transposed decoder (`transpose`).",
    )
    decoder_init: Literal["orthogonal", "kaiming", "gaussian"] = Field(
        "orthogonal", description="Decoder: orthonormal columns, Kaiming uniform, or random directions."
    )
    decoder_init_norm: PositiveFloat | None = Field(
        None, description="Norm of the decoder's rows at the start; null: as initialised, or 1 under `decoder: renormalised`."
    )
    encoder_bias_init: Literal["linear", "zero"] = Field("linear", description="Encoder bias: uniform in ±1/√d_in, or zero.")
    decoder_bias_init: Literal["linear", "zero", "mean", "geometric_median"] = Field(
        "linear",
        description="Decoder bias: uniform in ±1/√d_sae, zero, or the mean or geometric median of a sample of activations.",
    )
    activation_scale: Literal["none", "norm", "mean_square", "layer_norm"] = Field(
        "none",
        description="Scale of the inputs: none; mean norm √d_in (`norm`); mean square 1 (`mean_square`); both are estimated once and folded "
        "into the saved weights; `layer_norm` standardises each input and undoes it at the output.",
    )
    statistics_tokens: PositiveInt = Field(
        32_768, le=2**26, description="Tokens from which means, the geometric median, scales and variances are estimated."
    )

    # dead features
    dead_features: Literal["none", "ghost_grads", "ghost_grads_exp_relu", "auxk", "resample"] = Field(
        "none",
        description="What is done about dead features: nothing; ghost gradients (`ghost_grads_exp_relu` repeats the published error, which "
        "gives their encoder no gradient); AuxK (Gao); or resampling (Anthropic, October 2023).",
    )
    dead_window_tokens: PositiveInt = Field(
        100_000,
        le=10**13,
        description="A feature that has not fired for this many training tokens is dead: in the log, and for `dead_features`.",
    )
    auxk_k: PositiveInt | None = Field(
        None, le=2**24, description="`auxk`: dead features per token; null: the power of two nearest to d_in/2."
    )
    auxk_coeff: PositiveFloat = Field(1 / 32, description="`auxk`: weight of its loss.")
    auxk_normalised: bool = Field(
        True,
        description="`auxk`: divide its loss by the variance of the error that it reconstructs (Gao); false: as it is (BatchTopK).",
    )
    resample_tokens: Annotated[list[Annotated[int, Field(gt=0, le=10**13)]], Field(min_length=1)] | None = Field(
        None,
        description="`resample`: training tokens after which dead features are resampled; null: at 1/8, 1/4, 3/8 and 1/2 of the run.",
    )

    resample_warmup_tokens: NonNegativeInt = Field(
        0,
        le=10**13,
        description="`resample`: training tokens after each resampling over which the learning rate climbs back, along half a cosine, from a "
        "tenth of its scheduled value (Gated SAEs); 0: none.",
    )

    # optimiser
    n_tokens: PositiveInt = Field(
        1_000_000,
        le=10**13,
        description="Training tokens per run, rounded down to whole batches; the corpus is repeated in the same order if it is smaller.",
    )
    order: Literal["tokens", "rows"] = Field(
        "tokens",
        description="What an objective that does not run the model reads: single `tokens` of the whole corpus, shuffled, or whole `rows`, which are "
        "those of an end-to-end run of the same seed and batch, in the same order (as in the paper).",
    )
    batch_tokens: PositiveInt = Field(
        2048,
        le=2**24,
        description="Tokens per optimiser step; a multiple of the context for the end-to-end objectives and `order: rows`.",
    )
    lr: PositiveFloat = Field(5e-4, le=10, description="Peak learning rate of Adam (no weight decay).")
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Adam's β₁.")
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(0.999, description="Adam's β₂.")
    adam_eps: PositiveFloat = Field(1e-8, description="Adam's ε.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Share of the steps with linear warm-up from 0.")
    schedule: Literal["cosine", "linear_tail", "constant"] = Field(
        "cosine",
        description="Learning rate after the warm-up: half a cosine, constant with a linear decay at the end, or constant.",
    )
    tail_fraction: float = Field(0.2, gt=0, le=1, description="`linear_tail`: share of the steps over which the rate decays.")
    final_lr_fraction: float = Field(
        0.1, ge=0, le=1, description="`cosine`, `linear_tail`: learning rate at the end, as a share of the peak."
    )
    grad_clip: PositiveFloat | None = Field(10.0, description="Limit of the global gradient norm; null: none.")
    weight_ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Decay of an exponential moving average of the weights, which is then what is saved; null: none."
    )
    precision: Literal["float32", "bf16"] = Field("float32", description="`bf16`: autocast of the SAE's matrix products (CUDA).")
    tf32: bool = Field(False, description="Let CUDA matrix products in float32 round their inputs to TF32.")
    log_every: PositiveInt = Field(20, le=10**9, description="Steps between lines of log.jsonl.")
    checkpoint_every: PositiveInt = Field(
        250, le=10**9, description="Steps between checkpoints; an interrupted run resumes from the last one."
    )


class RunSpec(Frozen):
    """Everything that determines one run, but for the model and the corpus."""

    name: str
    group: str
    hook_point: str
    objective: ObjectiveName
    sparsity_coeff: float | None = None
    k: Annotated[int, Field(gt=0, le=2**24)] | None = None
    seed: Seed
    start_from: str | None = None
    # the hook points of the SAEs that are trained together with it, itself among them, and the factor of λ at each; not written
    # where it is trained alone
    spliced: dict[str, float] | None = Field(None, exclude_if=lambda value: value is None)
    training: TrainingConfig

    @property
    def whole_rows(self) -> bool:
        """Whether it reads whole rows of the corpus instead of single tokens."""
        return OBJECTIVES[self.objective].needs_model or self.training.order == "rows"
