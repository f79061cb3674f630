"""Approximate search by inner product, for catalogues too large to score whole. Needs faiss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paddlecore.errors import ConfigError


class ApproximateIndex:
    """An inverted file over k-means cells (faiss IndexIVFFlat): the items of the cells nearest to a query are scored.

    About 4 sqrt(N) cells, of which a query looks into `probe`. Inner products are exact; items of other cells are not
    found. Small catalogues have one cell, and nothing is missed.

    Args:
        items: [N, d] float; row 0 is padding and is left out.
        bias: [N] float, added to the scores of each query; in the index it is one more column of the items.
        probe: share of the cells that a query looks into.

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, items: Tensor, *, bias: Tensor | None = None, probe: float = 0.1) -> None:
        try:
            import faiss  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise ConfigError(
                "an approximate index needs faiss: pip install 'paddle-suite[ann]', or take the exact index "
                "(task.index=exact)"
            ) from None
        self._biased = bias is not None
        rows = items if bias is None else torch.cat([items, bias.unsqueeze(1)], 1)
        vectors = rows[1:].detach().float().cpu().contiguous().numpy()
        # faiss wants 39 vectors for each centroid
        cells = max(1, min(round(4 * len(vectors) ** 0.5), len(vectors) // 39))
        coarse = faiss.IndexFlatIP(vectors.shape[1])
        self._index: Any = faiss.IndexIVFFlat(coarse, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.seed = 1234
        self._index.train(vectors)
        self._index.add(vectors)
        self._index.nprobe = max(1, round(probe * cells))

    def top_k(self, queries: Tensor, k: int, *, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As `paddlerec.layers.top_k`, of the items that are found: scores [B, k] and ids [B, k], 0 and -inf where
        fewer than k are. Items of `seen` [B, S] are asked for besides and then left out.
        """
        most = k if seen is None else k + int((seen > 0).sum(1).max())
        asked = torch.cat([queries, torch.ones_like(queries[:, :1])], 1) if self._biased else queries
        scores, places = self._index.search(np.ascontiguousarray(asked.detach().float().cpu().numpy()), most)
        found, ids = torch.from_numpy(scores), torch.from_numpy(places) + 1  # place -1: nothing
        hidden = ids == 0
        if seen is not None:
            own = seen.cpu().sort(1).values
            place = torch.searchsorted(own, ids.contiguous()).clamp(max=own.shape[1] - 1)
            hidden |= own.gather(1, place) == ids
        found = found.masked_fill(hidden, -torch.inf)
        order = found.argsort(stable=True, dim=1, descending=True)[:, :k]
        found, ids = found.gather(1, order), ids.gather(1, order)
        return found.to(queries.device), ids.masked_fill(found == -torch.inf, 0).to(queries.device)
