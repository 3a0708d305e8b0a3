"""Global Attention Mechanism: Liu, Shao, Hoffmann, "Global Attention Mechanism: Retain Information to Enhance
Channel-Spatial Interactions", https://arxiv.org/abs/2112.05561

    F2 = F1 * Mc(F1),  Mc: C -> C/r -> C at every position, ReLU between                         (equation 1)
    F3 = F2 * Ms(F2),  Ms = sigma(norm(conv 7x7(relu(norm(conv 7x7(F2)))))),  C -> C/r -> C      (equation 2)

Nothing is pooled. No code of the authors' was found: r = 4, the biases and no sigmoid in Mc are those of the code in
circulation, which has been asked where its sigmoid is; `form="text"` puts one at the end of Mc. For large networks the
same code groups the two convolutions and shuffles the channels after them.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from .gating import choice, largest_divisor, whole_number
from .layers import Norm, convolution, odd
from .se import fitted_width
from .statistics import positions, shaped_like

fx.wrap("positions")
fx.wrap("shaped_like")


class GAM(nn.Module):
    """Global attention mechanism; with h = C/r, k the positions of a kernel and g groups

        2 C h + h + C  +  2 C h k / g + h + C  +  2 h + 2 C

    parameters: linear layers, convolutions, norms. At 2048 channels that is 105 M without groups.

    Any channel count works: the hidden width is at least 1, and groups that do not divide both widths become the
    largest count that does; `adjustments` says so. A batch of one value per channel is normalised by the running
    statistics, in train mode too (`layers.Norm`).

    Args:
        channels: C of the maps.
        reduction: r; the hidden width is C/r.
        kernel: the size of the convolutions, odd.
        groups: of the convolutions; above 1 the channels are shuffled after them.
        form: "code", or "text": with the sigmoid in Mc.
        ndim: the number of spatial axes, 1 to 3.

    Raises:
        AttentionError: an even kernel, a reduction or group count below 1, an ndim that is not 1, 2 or 3.

    """

    traced_whole = True

    def __init__(
        self,
        channels: int,
        reduction: float = 4,
        *,
        kernel: int = 7,
        groups: int = 1,
        form: str = "code",
        ndim: int = 2,
    ) -> None:
        super().__init__()
        odd("kernel", kernel)
        hidden, self.adjustments, self.unmet = fitted_width(channels, reduction)
        self.groups = largest_divisor(whole_number("groups", groups), channels, hidden)
        if self.groups != groups:
            self.adjustments += (f"with groups {groups} fitted to {self.groups}",)
        self.bounded: bool = choice({"code": False, "text": True}, "form", form)
        self.fc1 = nn.Conv1d(channels, hidden, 1)
        self.fc2 = nn.Conv1d(hidden, channels, 1)
        made = convolution(ndim)
        self.conv1 = made(channels, hidden, kernel, padding=kernel // 2, groups=self.groups)
        self.norm1 = Norm(hidden)
        self.conv2 = made(hidden, channels, kernel, padding=kernel // 2, groups=self.groups)
        self.norm2 = Norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, *spatial) -> the same shape."""
        channel = shaped_like(self.fc2(torch.relu(self.fc1(positions(x)))), x)
        x = x * (torch.sigmoid(channel) if self.bounded else channel)
        spatial = torch.sigmoid(self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        if self.groups > 1:
            flat = positions(spatial)
            grouped = flat.reshape(flat.shape[0], self.groups, flat.shape[1] // self.groups, flat.shape[2])
            spatial = shaped_like(grouped.transpose(1, 2).flatten(1, 2), x)
        return x * spatial
