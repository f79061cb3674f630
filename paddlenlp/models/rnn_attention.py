"""Recurrent encoder and decoder with attention, for translation.

Bahdanau, Cho and Bengio, 2015, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR; Luong,
Pham and Manning, 2015, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from paddlecore.dropout import Dropout

_KINDS = ("bahdanau", "luong_general", "luong_concat")


@dataclass
class RNNState:
    """What decoding remembers of B sources with K hypotheses each, N = B x K rows, sentence by sentence."""

    memory: Tensor  # [B, S, 2 d] the encoder's states, both directions
    keys: Tensor  # [B, S, d] the same as the scores need them
    visible: Tensor  # [B, S] bool: source tokens that are no padding
    hidden: list[tuple[Tensor, ...]]  # of each layer of the decoder: (h,) of a GRU, (h, c) of an LSTM, [N, d] each
    feed: Tensor  # [N, d] the attentional vector of the last token (Luong)
    attention: Tensor | None  # [N, S] where the last step looked; None = not wanted


class RNNAttention(nn.Module):
    """Bidirectional encoder; a decoder that looks at all of its states for each token.

    `bahdanau` (sections 3.1 and A.1.2): the state before a token asks, e_j = v^T tanh(W s_{t-1} + U h_j); with the
    weights softmax(e) the context is c_t = sum_j a_j h_j; then s_t = f(s_{t-1}, y_{t-1}, c_t), and the output is made
    of tanh(W_c [c_t; s_t; y_{t-1}]), where the paper has a maxout layer.

    `luong_*` (sections 3 and 3.1, global): the state after it asks, s_t = f(s_{t-1}, y_{t-1}), with the score s^T W h
    (general) or v^T tanh(W [s; h]) (concat); the output is made of h~_t = tanh(W_c [c_t; s_t]), eq. 5. With
    `input_feeding` (section 3.3) f is also given h~_{t-1}.

    The decoder's layers start at tanh(W [forward; backward]) of the last states of the encoder's layers.

    Args:
        vocab_size: tokens of both languages.
        dim: width of a word vector and of a state, d; of each direction in the encoder.
        layers: recurrent layers of the encoder and of the decoder.
        cell: gru or lstm.
        attention: bahdanau, luong_general or luong_concat.
        input_feeding: see above; of no meaning to `bahdanau`, whose context is fed anyway.
        dropout: probability that a value is dropped, of word vectors, between layers, and before the output.
        shared: one matrix for the word vectors of both languages and the output layer (Press and Wolf, 2017); else
            three.
        pad_id: token that fills up short sentences.

    Shapes and decoding: as `paddlenlp.models.Transformer`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int = 256,
        layers: int = 1,
        cell: str = "gru",
        attention: str = "luong_general",
        input_feeding: bool = True,
        dropout: float = 0.2,
        shared: bool = True,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if cell not in ("gru", "lstm"):
            raise ValueError(f"cell must be gru or lstm, got {cell!r}")
        if attention not in _KINDS:
            raise ValueError(f"attention must be one of {', '.join(_KINDS)}, got {attention!r}")
        self.dim, self.pad_id, self.kind, self.cell = dim, pad_id, attention, cell
        self.input_feeding = input_feeding and attention != "bahdanau"
        self.source_embedding = nn.Embedding(vocab_size, dim, padding_idx=pad_id)
        self.target_embedding = self.source_embedding if shared else nn.Embedding(vocab_size, dim, padding_idx=pad_id)
        self.output = nn.Linear(dim, vocab_size, bias=False)
        if shared:
            self.output.weight = self.source_embedding.weight
        self.dropout = Dropout(dropout)
        encoder, decoder = (nn.GRU, nn.GRUCell) if cell == "gru" else (nn.LSTM, nn.LSTMCell)
        between = dropout if layers > 1 else 0.0
        self.encoder = encoder(dim, dim, layers, batch_first=True, dropout=between, bidirectional=True)
        self.bridge = nn.ModuleList(nn.Linear(2 * dim, dim) for _ in range(layers))
        fed = 2 * dim if attention == "bahdanau" else dim if self.input_feeding else 0
        self.decoder = nn.ModuleList(decoder(dim + fed if i == 0 else dim, dim) for i in range(layers))
        additive = attention in ("bahdanau", "luong_concat")
        self.key = nn.Linear(2 * dim, dim, bias=False)  # U h; W h
        self.query = nn.Linear(dim, dim, bias=False) if additive else None  # W s
        self.score = nn.Linear(dim, 1, bias=False) if additive else None  # v
        self.combine = nn.Linear((4 if attention == "bahdanau" else 3) * dim, dim, bias=False)  # W_c
        for name, weight in self.named_parameters():
            if "weight_hh" in name:
                for gate in weight.data.split(dim):
                    nn.init.orthogonal_(gate)  # section B.1 of Bahdanau et al.
            elif "embedding" in name or name == "output.weight":
                nn.init.normal_(weight, std=0.1)
        with torch.no_grad():
            self.source_embedding.weight[pad_id].zero_()
            self.target_embedding.weight[pad_id].zero_()

    def start(self, source: Tensor, *, attention: bool = False) -> RNNState:
        """The state of one hypothesis without tokens for each source [B, S]; `attention`: steps say where they look."""
        visible = source != self.pad_id
        words = self.dropout(self.source_embedding(source))
        # a GPU is waited for here: cuDNN takes the lengths of a packed sequence from the host
        packed = pack_padded_sequence(words, visible.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        states, last = self.encoder(packed)
        memory, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])  # [B, S, 2 d]
        final = last if self.cell == "gru" else last[0]  # [2 layers, B, d]
        hidden: list[tuple[Tensor, ...]] = []
        for i, bridge in enumerate(self.bridge):
            h = bridge(torch.cat([final[2 * i], final[2 * i + 1]], 1)).tanh()  # [B, d]
            hidden.append((h,) if self.cell == "gru" else (h, torch.zeros_like(h)))
        feed = memory.new_zeros(len(source), self.dim)
        looked = memory.new_zeros(source.shape) if attention else None
        return RNNState(memory, self.key(memory), visible, hidden, feed, looked)

    def _look(self, query: Tensor, state: RNNState) -> Tensor:
        """State of the decoder [N, d] -> context [N, 2 d]."""
        query = query.view(len(state.memory), -1, self.dim)  # [B, K, d]
        if self.query is not None and self.score is not None:
            both = self.query(query)[:, :, None] + state.keys[:, None]  # [B, K, S, d]
            scores = self.score(both.tanh())[..., 0]  # [B, K, S]
        else:
            scores = query @ state.keys.transpose(1, 2).to(query.dtype)
        weights = scores.float().masked_fill(~state.visible[:, None], -torch.inf).softmax(2)
        if state.attention is not None:
            state.attention = weights.flatten(0, 1)
        return (weights.to(state.memory.dtype) @ state.memory).flatten(0, 1)

    def _advance(self, words: Tensor, state: RNNState) -> Tensor:
        """Vectors of the last tokens [N, d] -> what the output is made of [N, d]; `state` gets new tensors."""
        before = state.hidden[-1][0]
        context = self._look(before, state) if self.kind == "bahdanau" else None
        x = words
        if context is not None:
            x = torch.cat([x, context], 1)
        elif self.input_feeding:
            x = torch.cat([x, state.feed], 1)
        hidden = []
        for i, cell in enumerate(self.decoder):
            old = state.hidden[i]
            new = cell(x, old[0] if self.cell == "gru" else old)
            hidden.append((new,) if self.cell == "gru" else new)
            x = hidden[-1][0] if i == len(self.decoder) - 1 else self.dropout(hidden[-1][0])
        state.hidden = hidden
        if context is not None:
            return self.combine(torch.cat([context, x, words], 1)).tanh()
        state.feed = self.combine(torch.cat([self._look(x, state), x], 1)).tanh()
        return state.feed

    def features(self, source: Tensor, target: Tensor) -> Tensor:
        """What `output` makes logits of, [B, T, d]: a loss need not score padding."""
        state = self.start(source)
        words = self.dropout(self.target_embedding(target))
        return self.dropout(torch.stack([self._advance(w, state) for w in words.unbind(1)], 1))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.output(self.features(source, target))

    def step(self, tokens: Tensor, state: RNNState) -> tuple[Tensor, RNNState]:
        """The last token of each hypothesis [N] -> logits of the next one [N, V]. The state is changed in place."""
        return self.output(self._advance(self.target_embedding(tokens), state)), state

    def reorder(self, state: RNNState, index: Tensor) -> RNNState:
        """Go on with other hypotheses: `index` [B', K'] int64 are rows of the N present ones, a line has one source."""
        width, rows = len(state.feed) // len(state.memory), index.reshape(-1)
        if len(index) != len(state.memory):
            chosen = index[:, 0] // width
            state.memory, state.keys, state.visible = state.memory[chosen], state.keys[chosen], state.visible[chosen]
        state.hidden = [tuple(h[rows] for h in layer) for layer in state.hidden]
        state.feed = state.feed[rows]
        if state.attention is not None:
            state.attention = state.attention[rows]
        return state
