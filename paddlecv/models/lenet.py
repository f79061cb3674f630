"""LeNet-5: two convolutions with pooling, then three linear layers.

LeCun, Bottou, Bengio, Haffner, 1998, "Gradient-Based Learning Applied to Document Recognition", Proceedings of the
IEEE 86(11), section II.B.
"""

from __future__ import annotations

from torch import Tensor, nn

from paddlecore.errors import DataError


class LeNet(nn.Module):
    """LeNet-5 in its modern form.

    The layers and their sizes are the paper's. ReLU stands where it has a scaled tanh, max pooling where it has
    averages with a trained scale and bias; C3 sees all maps of S2 rather than the subsets of the paper's table I; and a
    linear layer of class scores, trained with cross-entropy, takes the place of the Gaussian connections. Images are 28
    pixels wide, so two pixels of padding in C1 stand for the border of the paper's 32.

    Args:
        num_classes: classes, C.
        in_channels: channels of the images.
        dropout: probability that a unit of C5 and of F6 is dropped.

    Shapes: image [B, in_channels, 28, 28] float32 -> class scores (logits) [B, C].

    Raises:
        DataError: images of another size.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5, padding=2),  # C1 [B, 6, 28, 28]
            nn.ReLU(),
            nn.MaxPool2d(2),  # S2 [B, 6, 14, 14]
            nn.Conv2d(6, 16, 5),  # C3 [B, 16, 10, 10]
            nn.ReLU(),
            nn.MaxPool2d(2),  # S4 [B, 16, 5, 5]
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),  # [B, 400]
            nn.Linear(400, 120),  # C5
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(120, 84),  # F6
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(84, num_classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[2:] != (28, 28):
            raise DataError(f"LeNet takes images of 28 x 28 pixels, got {tuple(image.shape[2:])}")
        return self.classifier(self.features(image))
