"""Mixed Local Channel Attention: Wan, Lu, Shen, Xu, Lang, Ren, "Mixed local channel attention for object detection",
Engineering Applications of Artificial Intelligence 123, 2023, https://doi.org/10.1016/j.engappai.2023.106442

    L = x pooled to s x s patches;   g = mean of L
    a = w sigma(conv1d_k(L)) + (1 - w) sigma(conv1d_k'(g))           across the channels, as in ECA
    out = x * (a back at the size of x)

k as in ECA, s = 5, w = 1/2. Pooling and the way back are adaptive averages. In the released code, followed here, the
local kernel slides over the channels of all patches in one row, so that at a patch's first and last channels it reaches
into its neighbours'; in the paper's figure each patch has a row of its own, which form="text"
gives.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from ..errors import AttentionError
from .averaging import resized
from .eca import adaptive_kernel_size, checked_kernel_size
from .gating import choice, whole_number
from .statistics import positions, shaped_like

for name in ("positions", "resized", "shaped_like"):
    fx.wrap(name)


class MLCA(nn.Module):
    """Mixed local channel attention; 2 k parameters.

    Args:
        channels: C of the maps; only the adaptive k depends on it.
        k: the size of both kernels, odd; ECA's adaptive one if None.
        local_size: s, patches along each axis.
        local_weight: w.
        gamma, b: of the adaptive k.
        form: "code", or "text": a row of channels for each patch.
        ndim: the number of spatial axes, 1 to 3.

    Raises:
        AttentionError: an even or non-positive k, a local size below 1, a weight outside 0 to 1.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        k: int | None = None,
        *,
        local_size: int = 5,
        local_weight: float = 0.5,
        gamma: float = 2,
        b: float = 1,
        form: str = "code",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        self.k = adaptive_kernel_size(channels, gamma, b) if k is None else checked_kernel_size(k)
        if isinstance(local_weight, bool) or not isinstance(local_weight, (int, float)) or not 0 <= local_weight <= 1:
            raise AttentionError(f"local_weight must be a number from 0 to 1, got {local_weight!r}")
        self.local_weight = float(local_weight)
        self.size = [whole_number("local_size", local_size)] * whole_number("ndim", ndim)
        self.apart: bool = choice({"code": False, "text": True}, "form", form)
        self.conv = nn.Conv1d(1, 1, self.k, padding=self.k // 2, bias=False)
        self.conv_local = nn.Conv1d(1, 1, self.k, padding=self.k // 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        patches = resized(x, None, self.size)
        rows = positions(patches).transpose(1, 2)
        row = rows.flatten(0, 1) if self.apart else rows.flatten(1)
        local = self.conv_local(row.unsqueeze(1)).reshape(rows.shape)
        whole = self.conv(rows.mean(1, keepdim=True))
        mixed = torch.sigmoid(local) * self.local_weight + torch.sigmoid(whole) * (1 - self.local_weight)
        return x * resized(shaped_like(mixed.transpose(1, 2), patches), x, self.size).to(x.dtype)
