"""GRU4Rec: a recurrent network reads a session's clicks and scores the next one.

Hidasi, Karatzoglou, Baltrunas, Tikk, 2016, "Session-based Recommendations with Recurrent Neural Networks", ICLR; Hidasi
and Karatzoglou, 2018, "Recurrent Neural Networks with Top-k Gains for Session-based Recommendations", CIKM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from paddlecore.sparse import RowTable
from paddlerec.layers.gru import gru_cell


class GRU4Rec(nn.Module):
    """Layers of GRU cells over embedded clicks; a score is the product of the last state with an item's vector, plus
    the item's bias (2016, section 3.1). One table may serve both ("constrained embedding" of 2018).

    A row of a table is an item's vector and, in its last column, its bias: one gather and one update serve both.
    Dropout is on the embedded click and on each layer's state, which is also what the next click finds (as the authors
    have it). A step is trained on its own: states come in as numbers, no gradient flows into earlier steps.

    Args:
        num_items: ids, 0 (padding) included.
        layers: widths of the GRU layers.
        shared: one table for clicks and scored items; else two, the first of the width of the first layer.
        dropout_embedding: probability that a column of an embedded click is dropped.
        dropout_hidden: probability that a column of a state is dropped.

    Shapes: see the methods. Ids int32 or int64; 0 after the end of a history (and, for an empty one, throughout).
    """

    def __init__(
        self,
        *,
        num_items: int,
        layers: Sequence[int] = (100,),
        shared: bool = True,
        dropout_embedding: float = 0.0,
        dropout_hidden: float = 0.0,
    ) -> None:
        super().__init__()
        if num_items < 2 or not layers or min(layers) < 1:
            raise ValueError(f"num_items must be at least 2 and layers name a width, got {num_items}, {list(layers)}")
        self.widths, self.dim = list(layers), layers[-1]
        self.items = RowTable(num_items, self.dim + 1)
        self.clicks = None if shared else RowTable(num_items, layers[0])
        inputs = [self.dim if shared else layers[0], *layers[:-1]]
        self.cells = nn.ModuleList(nn.GRUCell(i, o) for i, o in zip(inputs, layers, strict=True))
        self.dropout_embedding, self.dropout_hidden = nn.Dropout(dropout_embedding), nn.Dropout(dropout_hidden)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Uniform with the deviation of Glorot and Bengio, 2010, eq. 16, for each gate; biases 0."""
        for table in (self.items, self.clicks):
            if table is not None:
                nn.init.xavier_uniform_(table.weight)
        self.items.weight[:, -1] = 0.0
        for cell in self.cells:
            assert isinstance(cell, nn.GRUCell)
            for weight in (cell.weight_ih, cell.weight_hh):
                bound = math.sqrt(6.0 / (weight.shape[0] // 3 + weight.shape[1]))
                weight.uniform_(-bound, bound)
            cell.bias_ih.zero_()
            cell.bias_hh.zero_()

    @property
    def state_size(self) -> int:
        """Columns of the states of all layers."""
        return sum(self.widths)

    def forward(self, click: Tensor, state: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step of sessions side by side.

        Args:
            click: [B] ids.
            state: [B, state_size] the states of all layers before the click; no gradient flows into it.
            candidates: [C] ids of the items to be scored.

        Returns:
            query [B, d], state [B, state_size] after the click, and the candidates' rows [C, d + 1]: vector and bias.
        """
        states = self._step(self._embedded(click), state)
        after = states[0] if len(states) == 1 else torch.cat(states, 1)
        return states[-1], after, self.items(candidates)

    def _embedded(self, click: Tensor) -> Tensor:
        """[B, I] the first layer's input."""
        return self.dropout_embedding(self.items(click)[:, :-1] if self.clicks is None else self.clicks(click))

    def _step(self, x: Tensor, state: Tensor) -> list[Tensor]:
        states = []
        for cell, before in zip(self.cells, state.split(self.widths, 1), strict=True):
            assert isinstance(cell, nn.GRUCell)
            x = self.dropout_hidden(gru_cell(cell, x, before))
            states.append(x)
        return states

    def encode(self, history: Tensor) -> Tensor:
        """history [B, T], right-padded with 0 -> query [B, d]; zeros where the history is empty."""
        state = self.items.weight.new_zeros(len(history), self.state_size)
        for click in history.t():
            after = torch.cat(self._step(self._embedded(click), state), 1)
            state = torch.where((click > 0).unsqueeze(1), after, state)
        return state[:, -self.dim :]

    def item_vectors(self) -> Tensor:
        """[num_items, d]."""
        return self.items.weight[:, :-1]

    def item_bias(self) -> Tensor:
        """[num_items]."""
        return self.items.weight[:, -1]
