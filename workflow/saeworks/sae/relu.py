"""The ReLU sparse autoencoder of Braun et al. 2024 (arXiv 2405.12241, appendix; the authors' code)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ReluSAE(nn.Module):
    """c = ReLU(x W_enc + b_enc);  x̂ = c W_dec/‖W_dec‖ + b_dec.

    No decoder bias is subtracted from the input. Rows of `W_dec` are normalised in the forward pass, differentiably, so
    the raw decoder is free. Shapes as in SAELens: `W_enc` (d_in, d_sae), `W_dec` (d_sae, d_in).
    """

    architecture = "standard"

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__()
        self.d_in, self.d_sae = d_in, d_sae
        self.W_enc = nn.Parameter(torch.empty(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.empty(d_sae))
        self.W_dec = nn.Parameter(torch.empty(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.empty(d_in))

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Feature activations."""
        return F.relu(F.linear(x, self.W_enc.T, self.b_enc))

    def decode(self, codes: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Reconstruction from feature activations."""
        return F.linear(codes, self.dictionary().T, self.b_dec)

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> tuple[Float[Tensor, "*batch d_in"], Float[Tensor, "*batch d_sae"]]:
        """`(reconstruction, codes)`."""
        codes = self.encode(x)
        return self.decode(codes), codes

    def dictionary(self) -> Float[Tensor, "d_sae d_in"]:
        """Decoder directions: the rows of `W_dec`, unit norm."""
        return F.normalize(self.W_dec, dim=1)
