"""Transformer: attention instead of recurrence, for translation.

Vaswani et al., 2017, "Attention Is All You Need", NeurIPS. Post-norm is the paper's; pre-norm, which trains without a
long warm-up, is that of Xiong et al., 2020, "On Layer Normalization in the Transformer Architecture", ICML.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from paddlecore.dropout import Dropout
from paddlecore.linear import Linear


@dataclass
class TransformerState:
    """What decoding remembers of B sources with K hypotheses each, N = B x K rows, sentence by sentence."""

    memory: list[tuple[Tensor, Tensor]]  # of each layer: keys and values of the source, [B, H, S, d / H] each
    visible: Tensor  # [B, 1, 1, S] bool: source tokens that are no padding
    keys: list[Tensor]  # of each layer: [B, H, room, d / H], of all tokens that hypotheses of a sentence ever had
    values: list[Tensor]
    own: Tensor  # [B, K, E] bool: which of the E places that are filled are a hypothesis's own tokens
    length: int  # tokens of a hypothesis so far
    attention: Tensor | None  # [N, S] where the last step looked, mean over the last layer's heads; None = not wanted


class Transformer(nn.Module):
    """Encoder and decoder of section 3, sinusoidal positions (section 3.5), embeddings scaled by sqrt(d) (section 3.4).

    Args:
        vocab_size: tokens of both languages.
        dim: width of a token, d.
        heads: attention heads, H.
        hidden: width of the feed-forward layers.
        encoder_layers: layers of the encoder.
        decoder_layers: layers of the decoder.
        dropout: probability that a value is dropped, of embeddings and of what is added to the residual stream.
        attention_dropout: the same of attention weights.
        hidden_dropout: the same inside feed-forward layers.
        pre_norm: layer norm before each part and at the end of the stack; else after each addition, as in the paper.
        shared: one matrix for the embeddings of both languages and the output layer (section 3.4); else three.
        pad_id: token that fills up short sentences.

    Shapes: source [B, S] and target [B, T] int64, padded on the right; a source has at least one token. Target begins
    with the start token; the score of its token t + 1 is at place t -> logits [B, T, V].

    Decoding goes token by token: `start`, then `step` and `reorder` in turn; see `TransformerState`.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int = 512,
        heads: int = 8,
        hidden: int = 2048,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        pre_norm: bool = False,
        shared: bool = True,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads or dim % 2:
            raise ValueError(f"dim must be even and a multiple of heads, got dim={dim}, heads={heads}")
        if encoder_layers < 0 or decoder_layers < 1:
            raise ValueError(
                "encoder_layers must be at least 0 and decoder_layers at least 1, got "
                f"encoder_layers={encoder_layers}, decoder_layers={decoder_layers}"
            )
        if not 0 <= attention_dropout <= 1:  # the others are refused by the layers that they go to
            raise ValueError(f"attention_dropout must be at least 0 and at most 1, got {attention_dropout}")
        self.dim, self.pad_id = dim, pad_id
        self.source_embedding = nn.Embedding(vocab_size, dim, padding_idx=pad_id)
        self.target_embedding = self.source_embedding if shared else nn.Embedding(vocab_size, dim, padding_idx=pad_id)
        self.output = Linear(dim, vocab_size, bias=False)
        if shared:
            self.output.weight = self.source_embedding.weight
        self.dropout = Dropout(dropout)
        sizes = (dim, heads, hidden, dropout, attention_dropout, hidden_dropout, pre_norm)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(decoder_layers))
        self.encoder_norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(dim) if pre_norm else nn.Identity()
        self._positions = positions(64, dim)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.output:
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # each once, and in this order: that of a set hangs on where tensors lie in memory, so the draws would, too
        for weight in dict.fromkeys([self.source_embedding.weight, self.target_embedding.weight, self.output.weight]):
            nn.init.normal_(weight, std=dim**-0.5)
        with torch.no_grad():
            self.source_embedding.weight[pad_id].zero_()
            self.target_embedding.weight[pad_id].zero_()

    def _embed(self, embedding: nn.Embedding, tokens: Tensor, first: int = 0) -> Tensor:
        """[B, T] -> [B, T, d]; the tokens stand at the places from `first` on."""
        end = first + tokens.shape[1]
        if end > len(self._positions) or self._positions.device != tokens.device:
            self._positions = positions(max(end, 2 * len(self._positions)), self.dim).to(tokens.device)
        words = embedding(tokens) * math.sqrt(self.dim)
        return self.dropout(words + self._positions[first:end].to(words.dtype))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] -> what the decoder reads [B, S, d], and [B, 1, 1, S] bool: no padding."""
        visible = (source != self.pad_id)[:, None, None]
        x = self._embed(self.source_embedding, source)
        for layer in self.encoder:
            x = layer(x, visible)
        return self.encoder_norm(x), visible

    def features(self, source: Tensor, target: Tensor) -> Tensor:
        """What `output` makes logits of, [B, T, d]: a loss need not score padding."""
        memory, visible = self.encode(source)
        x = self._embed(self.target_embedding, target)
        for layer in self.decoder:
            x = layer(x, memory, visible)
        return self.decoder_norm(x)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.output(self.features(source, target))

    def start(self, source: Tensor, *, attention: bool = False) -> TransformerState:
        """The state of one hypothesis without tokens for each source [B, S]; `attention`: steps say where they look."""
        memory, visible = self.encode(source)
        kept = [layer.cross.memory(memory) for layer in cast("Iterable[DecoderLayer]", self.decoder)]
        empty = [k[:, :, :0] for k, _ in kept]
        own = visible.new_empty(len(source), 1, 0)
        looked = memory.new_zeros(source.shape) if attention else None
        return TransformerState(kept, visible, empty, list(empty), own, 0, looked)

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """The last token of each hypothesis [N] -> logits of the next one [N, V]. The state is changed in place."""
        x = self._embed(self.target_embedding, tokens[:, None], state.length)  # [N, 1, d]
        count, width, filled = state.own.shape
        state.own = torch.cat([state.own, torch.eye(width, dtype=torch.bool, device=x.device).expand(count, -1, -1)], 2)
        if filled + width > state.keys[0].shape[2]:
            room = (0, 0, 0, max(16 * width, filled))
            state.keys = [F.pad(k, room) for k in state.keys]
            state.values = [F.pad(v, room) for v in state.values]
        x = x.view(count, width, self.dim)
        for i, layer in enumerate(cast("Iterable[DecoderLayer]", self.decoder)):
            x, looked = layer.step(x, state, i)
            if state.attention is not None and i == len(self.decoder) - 1:
                state.attention = looked.float().mean(1).flatten(0, 1)
        state.length += 1
        return self.output(self.decoder_norm(x).flatten(0, 1)), state

    def reorder(self, state: TransformerState, index: Tensor) -> TransformerState:
        """Go on with other hypotheses: `index` [B', K'] int64 are rows of the N present ones.

        Hypotheses of one line have one source, and its number is their row's number divided by the present K.
        """
        count, width, _ = state.own.shape
        state.own = state.own.flatten(0, 1)[index]  # [B', K', E]
        if len(index) != count:
            chosen = index[:, 0] // width
            state.memory = [(k[chosen], v[chosen]) for k, v in state.memory]
            state.visible = state.visible[chosen]
            state.keys = [k[chosen] for k in state.keys]
            state.values = [v[chosen] for v in state.values]
        self._forget(state)
        if state.attention is not None:
            state.attention = state.attention[index.flatten()]
        return state

    @staticmethod
    def _forget(state: TransformerState) -> None:
        """Drop tokens that are no hypothesis's own any more, once they are half of all."""
        used = state.own.any(1)  # [B, E]
        most, filled = int(used.sum(1).max()), used.shape[1]
        if 2 * most > filled:
            return
        order = used.byte().argsort(dim=1, descending=True, stable=True)[:, :most]  # [B, most] the used ones first
        state.own = state.own.gather(2, order[:, None].expand(-1, state.own.shape[1], -1))
        count, heads, room, _ = state.keys[0].shape
        first = torch.arange(0, count * heads * room, room, device=order.device).view(count, heads, 1)
        rows = first + order[:, None]  # [B, H, most]
        state.keys = [k.flatten(0, 2)[rows] for k in state.keys]
        state.values = [v.flatten(0, 2)[rows] for v in state.values]


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with dropout, addition and layer norm (sections 3.1 and 5.4)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        hidden_dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = SelfAttention(dim, heads, attention_dropout)
        self.feed_forward = nn.Sequential(Linear(dim, hidden), nn.ReLU(), Dropout(hidden_dropout), Linear(hidden, dim))
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def add(self, x: Tensor, part: Callable[[Tensor], Tensor], norm: nn.Module) -> Tensor:
        """x [B, T, d] plus a part of the layer."""
        if self.pre_norm:
            return x + self.dropout(part(norm(x)))
        return norm(x + self.dropout(part(x)))

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """x [B, S, d], visible [B, 1, 1, S] bool -> [B, S, d]."""
        x = self.add(x, lambda y: self.attention(y, visible), self.attention_norm)
        return self.add(x, self.feed_forward, self.feed_forward_norm)


class DecoderLayer(EncoderLayer):
    """The same with attention over the source between the two; self-attention sees earlier tokens only."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        attention_dropout: float,
        hidden_dropout: float,
        pre_norm: bool,
    ) -> None:
        super().__init__(dim, heads, hidden, dropout, attention_dropout, hidden_dropout, pre_norm)
        self.cross = CrossAttention(dim, heads, attention_dropout)
        self.cross_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: Tensor, visible: Tensor) -> Tensor:  # type: ignore[override]
        """x [B, T, d], memory [B, S, d], visible [B, 1, 1, S] bool -> [B, T, d]."""
        x = self.add(x, lambda y: self.attention(y, None), self.attention_norm)
        kept = self.cross.memory(memory)
        x = self.add(x, lambda y: self.cross(y, *kept, visible), self.cross_norm)
        return self.add(x, self.feed_forward, self.feed_forward_norm)

    def step(self, x: Tensor, state: TransformerState, i: int) -> tuple[Tensor, Tensor]:
        """The last tokens x [B, K, d] in layer `i` -> [B, K, d], and where they looked [B, H, K, S]."""
        looked = x

        def over_source(y: Tensor) -> Tensor:
            nonlocal looked
            y, looked = self.cross.step(y, *state.memory[i], state.visible)
            return y

        x = self.add(
            x, lambda y: self.attention.step(y, state.keys[i], state.values[i], state.own), self.attention_norm
        )
        x = self.add(x, over_source, self.cross_norm)
        return self.add(x, self.feed_forward, self.feed_forward_norm), looked


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence over itself (section 3.2): softmax(Q K^T / sqrt(d / H)) V, eq. 1."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        """x [B, T, d]; visible [B, 1, 1, T] bool, or None: each token sees itself and those before."""
        q, k, v = (parted(y, self.heads) for y in self.qkv(x).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        return self.out(joined(attend(q, k, v, visible, dropout)))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, own: Tensor) -> Tensor:
        """The last tokens x [B, K, d]; their keys and values join those of all tokens [B, H, room, d / H], of which
        `own` [B, K, E] says which they see."""
        q, k, v = (parted(y, self.heads) for y in self.qkv(x).chunk(3, -1))  # [B, H, K, d / H]
        end = own.shape[2]
        keys[:, :, end - x.shape[1] : end], values[:, :, end - x.shape[1] : end] = k, v
        return self.out(joined(shares(q, keys[:, :, :end], own[:, None]) @ values[:, :, :end]))


class CrossAttention(nn.Module):
    """Multi-head attention over the source (section 3.2.3)."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim)
        self.out = Linear(dim, dim)

    def memory(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, d] -> keys and values [B, H, S, d / H]."""
        k, v = (parted(y, self.heads) for y in self.kv(source).chunk(2, -1))
        return k, v

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """x [B, T, d] -> [B, T, d]."""
        dropout = self.dropout if self.training else 0.0
        q = parted(self.q(x), self.heads)
        return self.out(joined(attend(q, keys, values, visible, dropout)))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with the share of each source token [B, H, T, S]."""
        looked = shares(parted(self.q(x), self.heads), keys, visible)
        return self.out(joined(looked @ values)), looked


def shares(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d / H)), eq. 1: [B, H, T, d / H] and [B, H, S, d / H] -> [B, H, T, S]. For a few queries a
    CPU is quicker this way than by the fused kernel."""
    scores = (q / math.sqrt(q.shape[3])) @ k.transpose(2, 3)
    return scores.masked_fill_(~visible, -torch.inf).softmax(3)


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float) -> Tensor:
    """softmax(Q K^T / sqrt(d / H)) V, eq. 1: [B, H, T, d / H] each; without `visible`, causal."""
    slow = q.device.type == "cpu" and q.dtype != torch.float32 and torch.is_grad_enabled()
    # the fused kernel's backward on a CPU takes seven times as long in bf16 as two batched products do
    with sdpa_kernel(SDPBackend.MATH) if slow else contextlib.nullcontext():
        return F.scaled_dot_product_attention(q, k, v, visible, dropout, is_causal=visible is None)


def parted(x: Tensor, heads: int) -> Tensor:
    """[B, T, d] -> [B, H, T, d / H]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[B, H, T, d / H] -> [B, T, d]."""
    return x.transpose(1, 2).flatten(2)


def positions(length: int, dim: int) -> Tensor:
    """[length, dim] float32: sines of all wavelengths in the even columns, cosines in the odd ones (section 3.5)."""
    angle = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)  # [length, dim / 2]
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)
