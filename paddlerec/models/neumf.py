"""NeuMF: matrix factorisation and a multi-layer perceptron over users and items, each alone or fused.

He, Liao, Zhang, Nie, Hu, Chua, 2017, "Neural Collaborative Filtering", WWW.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers import mlp


class NeuMF(nn.Module):
    """logit = <h, [GMF; MLP]> + b (eq. 12), the two parts with embeddings of their own.

    GMF = p_u * q_i, element by element (eq. 8); MLP = ReLU layers over [p_u, q_i] (eq. 10). `part` takes one of them
    alone (eq. 9, eq. 10). With `start_from` a fused model starts from two that were trained alone.

    Args:
        num_users: rows of the user tables, 0 (unknown) included.
        num_items: the same of items.
        factors: width of GMF's embeddings.
        mlp_dim: width of MLP's embeddings.
        hidden: widths of MLP's layers; the last is its share of the prediction.
        part: fused, gmf or mlp.
        init_std: of the embeddings.

    Shapes: user, item [...] int64, of one shape -> logit [...].
    """

    def __init__(
        self,
        *,
        num_users: int,
        num_items: int,
        factors: int = 8,
        mlp_dim: int = 32,
        hidden: Sequence[int] = (32, 16, 8),
        part: str = "fused",
        init_std: float = 0.01,
    ) -> None:
        super().__init__()
        if part not in ("fused", "gmf", "mlp"):
            raise ValueError(f"part must be fused, gmf or mlp, got {part!r}")
        width = 0
        self.gmf = self.mlp = None
        if part != "mlp":
            self.gmf = nn.ModuleDict({
                "user": RowTable(num_users, factors, init_std=init_std),
                "item": RowTable(num_items, factors, init_std=init_std),
            })  # fmt: skip
            width += factors
        if part != "gmf":
            self.mlp = nn.ModuleDict({
                "user": RowTable(num_users, mlp_dim, init_std=init_std),
                "item": RowTable(num_items, mlp_dim, init_std=init_std),
                "layers": mlp([2 * mlp_dim, *hidden]),
            })  # fmt: skip
            width += [2 * mlp_dim, *hidden][-1]
        self.output = nn.Linear(width, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        parts = []
        if self.gmf is not None:
            parts.append(self.gmf["user"](user) * self.gmf["item"](item))  # [..., factors]
        if self.mlp is not None:
            both = torch.cat([self.mlp["user"](user), self.mlp["item"](item)], -1)  # [..., 2 mlp_dim]
            parts.append(self.mlp["layers"](both))  # [..., hidden[-1]]
        return self.output(torch.cat(parts, -1)).squeeze(-1)

    def start_from(self, gmf: NeuMF, mlp: NeuMF, alpha: float = 0.5) -> None:
        """Take over the weights of a `gmf` and an `mlp` model of the same sizes; h = [alpha h_gmf; (1 - alpha) h_mlp]
        (section 3.4.1, eq. 13)."""
        if self.gmf is None or self.mlp is None or gmf.gmf is None or mlp.mlp is None:
            raise ValueError("a fused model starts from a model with the part gmf and one with the part mlp")
        self.gmf.load_state_dict(gmf.gmf.state_dict())
        self.mlp.load_state_dict(mlp.mlp.state_dict())
        weights = ((alpha, gmf.output), (1 - alpha, mlp.output))
        with torch.no_grad():
            self.output.weight.copy_(torch.cat([share * output.weight for share, output in weights], 1))
            self.output.bias.copy_(torch.stack([share * output.bias for share, output in weights]).sum(0))
