"""The confusion matrix against scikit-learn, and its figure."""

from __future__ import annotations

import torch
from sklearn.metrics import confusion_matrix

from paddlecv.metrics import ConfusionMatrix
from paddlecv.tasks import ImageClassification


def test_equals_scikit_learn_over_batches_and_leaves_void_out() -> None:
    torch.manual_seed(0)
    prediction, truth = torch.randint(0, 4, (2, 50)), torch.randint(-1, 4, (2, 50))
    metric = ConfusionMatrix(4)
    for p, t in zip(prediction, truth, strict=True):
        metric.update(p, t)
    known = truth >= 0
    assert metric.matrix.tolist() == confusion_matrix(truth[known], prediction[known], labels=range(4)).tolist()
    assert metric.compute() == {} and metric.figure() is not None
    metric.reset()
    assert metric.figure() is None


def test_the_figure_says_counts_names_and_the_share_that_is_right() -> None:
    metric = ConfusionMatrix(2, ["ant", "bee"])
    metric.update(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 1, 1]))
    axes = metric.figure().axes[0]  # type: ignore[union-attr]
    assert axes.get_title() == "4 of 5 right (80.00%)"
    assert [text.get_text() for text in axes.texts] == ["1", "1", "3"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["ant  1.000", "bee  0.750"]
    many = ConfusionMatrix(150)
    many.update(torch.arange(150), torch.arange(150))
    assert many.figure() is not None


def test_image_classification_counts_when_classes_have_names() -> None:
    assert len(ImageClassification(torch.nn.Identity()).metrics()) == 2
    task = ImageClassification(torch.nn.Flatten(), labels=["a", "b", "c"])
    metrics, image = task.metrics(), torch.tensor([[0.0, 2, 1], [3, 0, 0]])
    task.measure(metrics, task.predict({"image": image}), {"image": image, "label": torch.tensor([1, 2])})
    assert metrics[2].matrix.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]]  # type: ignore[attr-defined]
