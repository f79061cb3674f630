"""Senta: five encoders of a text's word vectors, each followed by the same small classifier.

The networks of Baidu's sentiment analysis system Senta, as its open code defines them (PaddlePaddle models repository,
PaddleNLP/sentiment_classification, nets.py; there is no paper): bow_net, cnn_net, lstm_net, gru_net, bilstm_net. Sizes
and activations are theirs. Dropout is added here, since the training set at hand has 9 600 texts.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from paddlenlp.layers import BagOfWords, Convolution, Recurrent, text_lengths, word_vectors


class _Senta(nn.Module):
    """Word vectors, an encoder, tanh layers, and a score for each class."""

    def __init__(
        self, encoder: BagOfWords | Convolution | Recurrent, vocab_size: int, num_classes: int, dim: int,
        hidden: list[int], dropout: float, pad_id: int, bound: float = 0.25,
    ) -> None:  # fmt: skip
        super().__init__()
        self.pad_id = pad_id
        self.embedding = word_vectors(vocab_size, dim, pad_id, bound)
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        widths = [encoder.size, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        words = self.dropout(self.embedding(tokens))  # [B, T, dim]
        text = self.encoder(words, text_lengths(tokens, self.pad_id)).tanh()  # [B, size]
        for layer in self.hidden:
            text = layer(self.dropout(text)).tanh()
        return self.output(self.dropout(text))


class SentaBOW(_Senta):
    """The tanh of the sum of the word vectors, two tanh layers, and the classes (bow_net).

    Args:
        vocab_size: tokens, padding included.
        num_classes: classes, C.
        dim: width of a word vector.
        hidden: width of the first layer.
        hidden2: width of the second.
        dropout: probability that a value of a word vector or of a layer's input is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        dim: int = 128,
        hidden: int = 128,
        hidden2: int = 96,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        # a sum of hundreds of vectors has to leave tanh room
        super().__init__(BagOfWords(dim=dim), vocab_size, num_classes, dim, [hidden, hidden2], dropout, pad_id, 0.1)


class SentaCNN(_Senta):
    """Filters over neighbouring words, their maximum over the text, one layer, and the classes (cnn_net).

    cnn_net has no activation after that layer; here it is tanh, as in the other four.

    Args:
        vocab_size: tokens, padding included.
        num_classes: classes, C.
        dim: width of a word vector.
        maps: filters.
        width: words that a filter sees.
        hidden2: width of the layer.
        dropout: probability that a value of a word vector or of a layer's input is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        dim: int = 128,
        maps: int = 128,
        width: int = 3,
        hidden2: int = 96,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        encoder = Convolution(dim=dim, maps=maps, width=width)
        super().__init__(encoder, vocab_size, num_classes, dim, [hidden2], dropout, pad_id)


class _Recurrent(_Senta):
    """A recurrent layer, the maximum of its states over the text, one tanh layer, and the classes.

    Args:
        vocab_size: tokens, padding included.
        num_classes: classes, C.
        dim: width of a word vector.
        hidden: width of a state.
        hidden2: width of the layer.
        dropout: probability that a value of a word vector or of a layer's input is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    kind: ClassVar[str]  # of `Recurrent`

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        dim: int = 128,
        hidden: int = 128,
        hidden2: int = 96,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        encoder = Recurrent(kind=self.kind, dim=dim, hidden=hidden, pool="max")
        super().__init__(encoder, vocab_size, num_classes, dim, [hidden2], dropout, pad_id)


class SentaLSTM(_Recurrent):
    """An LSTM, the maximum of its states over the text, one tanh layer, and the classes (lstm_net).

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    kind = "lstm"


class SentaGRU(_Recurrent):
    """A GRU, the maximum of its states over the text, one tanh layer, and the classes (gru_net).

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    kind = "gru"


class SentaBiLSTM(_Senta):
    """LSTMs from both ends, the last state of each, one tanh layer, and the classes (bilstm_net).

    Args:
        vocab_size: tokens, padding included.
        num_classes: classes, C.
        dim: width of a word vector.
        hidden: width of a state of either direction.
        hidden2: width of the layer.
        pool: last = the state after the last word of each direction, as in bilstm_net; max = the maximum over the text.
        dropout: probability that a value of a word vector or of a layer's input is dropped.
        pad_id: token that fills up short texts; its vector is zero and stays zero.

    Shapes: tokens [B, T] int64, padded on the right -> class scores (logits) [B, C].
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        num_classes: int,
        dim: int = 128,
        hidden: int = 128,
        hidden2: int = 96,
        pool: str = "last",
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        encoder = Recurrent(kind="lstm", dim=dim, hidden=hidden, pool=pool, both_ways=True)
        super().__init__(encoder, vocab_size, num_classes, dim, [hidden2], dropout, pad_id)
