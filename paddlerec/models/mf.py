"""Matrix factorisation for implicit feedback.

Rendle, Freudenthaler, Gantner, Schmidt-Thieme, 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI.
"""

from __future__ import annotations

from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.history import mean_of_history


class MF(nn.Module):
    """score(u, i) = <w_u, h_i> (section 4.3.1). With `task.loss=bpr` it is the paper's BPR-MF.

    A user without a row of their own (0) is folded in as the mean of the item vectors of their history; without a
    history, too, all scores are 0.

    Args:
        num_users: rows of the user table, 0 = unknown.
        num_items: rows of the item table, 0 = padding.
        dim: width of a vector.
        init_std: standard deviation of the initial vectors.
        normalise: score by the cosine.

    Shapes: see the methods. Ids are int64, vectors float32.
    """

    def __init__(
        self, *, num_users: int, num_items: int, dim: int = 64, init_std: float = 0.01, normalise: bool = False
    ) -> None:
        super().__init__()
        self.users = RowTable(num_users, dim, init_std=init_std)
        self.items = RowTable(num_items, dim, init_std=init_std)
        self.normalise = normalise

    def forward(self, user: Tensor, items: Tensor, history: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors of known users [B] and of items [M], for training: [B, dim], [M, dim]."""
        return self._scaled(self.users(user)), self._scaled(self.items(items))

    def encode(self, user: Tensor, history: Tensor | None = None) -> Tensor:
        """Vectors of users [B], who may be unknown, with their histories [B, T]: [B, dim]."""
        vectors = self.users(user)
        unknown = (user == 0).unsqueeze(1)
        folded = vectors * 0 if history is None else mean_of_history(self.items, history)
        return self._scaled(vectors.where(~unknown, folded))

    def item_vectors(self) -> Tensor:
        """[num_items, dim], row 0 included."""
        return self._scaled(self.items.weight)

    def penalty(self, user: Tensor, items: Tensor) -> Tensor:
        """[] sum of squares of what these users [B] and items [M] are made of: the L2 term of BPR-OPT (section 4)."""
        return self.users(user).square().sum() + self.items(items).square().sum()

    def _scaled(self, vectors: Tensor) -> Tensor:
        return nn.functional.normalize(vectors, dim=1) if self.normalise else vectors
