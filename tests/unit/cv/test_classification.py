"""Image classification: sums over images, metrics against scikit-learn, readable predictions."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import nn

from paddlecv.tasks import ImageClassification

SCORES = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.5, 0.0], [0.2, 0.1, 0.3]])
LABELS = torch.tensor([0, 2, 1, 2])


class Given(nn.Module):
    """Its scores are its input."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)


def batch() -> dict[str, torch.Tensor]:
    return {"image": SCORES[:, None, None], "label": LABELS}


def test_loss_is_a_sum_over_images() -> None:
    out = ImageClassification(Given())(batch())
    probability = SCORES.double().softmax(1)
    expected = -sum(math.log(probability[i, label]) for i, label in enumerate(LABELS.tolist()))
    assert float(out.loss_sum) == pytest.approx(expected, rel=1e-6)
    assert int(out.weight) == 4 and int(out.logs["acc"]) == 2


def test_label_smoothing_mixes_the_target_with_the_uniform_one() -> None:
    eps, log = 0.1, SCORES.double().log_softmax(1)
    expected = -((1 - eps) * log[range(4), LABELS] + eps * log.mean(1)).sum()
    out = ImageClassification(Given(), label_smoothing=eps)(batch())
    assert float(out.loss_sum) == pytest.approx(float(expected), rel=1e-6)


def test_metrics_equal_scikit_learn_and_ignore_smoothing() -> None:
    task = ImageClassification(Given(), label_smoothing=0.1, top_k=[1, 2])
    metrics = task.metrics()
    for half in (slice(0, 3), slice(3, 4)):
        part = {k: v[half] for k, v in batch().items()}
        task.measure(metrics, task.predict({"image": part["image"]}), part)
    found = {k: v for m in metrics for k, v in m.compute().items()}
    assert list(found) == ["acc", "acc@2", "loss"]
    assert found["acc"] == top_k_accuracy_score(LABELS, SCORES, k=1)
    assert found["acc@2"] == top_k_accuracy_score(LABELS, SCORES, k=2)
    assert found["loss"] == pytest.approx(log_loss(LABELS, SCORES.double().softmax(1)), rel=1e-6)


def test_render_names_the_five_best() -> None:
    names = list("abcdefg")
    task = ImageClassification(Given(), labels=names)
    scores = torch.tensor([[0.0, 5.0, 1.0, 4.0, 2.0, 3.0, -1.0]])
    row = task.render(task.predict({"image": scores}))[0]
    assert row["label"] == "b"
    assert list(row["probability"]) == ["b", "d", "f", "e", "c"]
    assert row["probability"]["d"] == pytest.approx(math.exp(4) / sum(map(math.exp, scores[0].tolist())), abs=1e-6)
    assert ImageClassification(Given()).render(task.predict({"image": scores}))[0]["label"] == "1"


def test_flip_and_scales_average_probabilities_and_the_loss_follows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.requires_grad_(False)[0].weight *= 20  # so that views differ
    image, label = torch.randn(4, 3, 12, 10), torch.tensor([0, 1, 2, 3])
    task = ImageClassification(model, top_k=[1, 2], flip=True, scales=[1.0, 1.5, 0.5])
    found = task.predict({"image": image})
    larger = nn.functional.interpolate(image, (18, 15), mode="bilinear")
    smaller = nn.functional.interpolate(image, (6, 5), mode="bilinear", antialias=True)
    views = [v for size in (image, larger, smaller) for v in (size, size.flip(3))]
    expected = torch.stack([model(view).softmax(1) for view in views]).mean(0)
    torch.testing.assert_close(found["probability"], expected)
    assert torch.equal(found["label"], expected.argmax(1))
    metrics = task.metrics()
    task.measure(metrics, found, {"label": label})
    assert metrics[1].compute()["loss"] == pytest.approx(float(-expected[range(4), label].log().mean()), rel=1e-5)
    assert metrics[0].compute()["acc@2"] == top_k_accuracy_score(label, expected, k=2, labels=range(5))
    alone = ImageClassification(model).predict({"image": image})
    assert torch.equal(alone["score"], model(image)) and not torch.equal(alone["label"], found["label"])


@pytest.mark.parametrize(
    "options", [{"label_smoothing": 1.0}, {"top_k": []}, {"top_k": [0]}, {"top_k": [1, 1]}, {"scales": []}]
)
def test_refuses_options_without_meaning(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="task."):
        ImageClassification(Given(), **options)  # type: ignore[arg-type]
