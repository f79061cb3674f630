"""The Transformer against torch.nn.Transformer with the same weights; steps = the whole; padding changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from paddlenlp.layers.beam_search import beam_search
from paddlenlp.models import Transformer
from paddlenlp.models.transformer import positions

SIZES = {"vocab_size": 20, "dim": 16, "heads": 4, "hidden": 24, "encoder_layers": 2, "decoder_layers": 3}
SOURCE = torch.tensor([[5, 6, 7, 3], [9, 3, 0, 0]])
TARGET = torch.tensor([[2, 8, 9, 10, 11], [2, 12, 4, 0, 0]])


def model(**options: object) -> Transformer:
    torch.manual_seed(0)
    net = Transformer(**{**SIZES, **options})  # type: ignore[arg-type]
    for p in net.parameters():  # biases and norms, too, are to differ from where they start
        nn.init.normal_(p, std=0.3)
    return net.eval()


def reference(net: Transformer, pre_norm: bool) -> nn.Transformer:
    """torch.nn.Transformer with the weights of `net`."""
    final = nn.LayerNorm(16) if pre_norm else None
    encoder = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True, norm_first=pre_norm)
    decoder = nn.TransformerDecoderLayer(16, 4, 24, 0.0, batch_first=True, norm_first=pre_norm)
    theirs = nn.Transformer(
        16,
        4,
        custom_encoder=nn.TransformerEncoder(encoder, 2, final, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(decoder, 3, nn.LayerNorm(16) if pre_norm else None),
        batch_first=True,
    )

    def copy(attention: nn.MultiheadAttention, weights: list[Tensor], biases: list[Tensor], out: nn.Linear) -> None:
        attention.in_proj_weight.copy_(torch.cat(weights))
        attention.in_proj_bias.copy_(torch.cat(biases))
        attention.out_proj.load_state_dict(out.state_dict())

    with torch.no_grad():
        for ours, layer in [
            *zip(net.encoder, theirs.encoder.layers, strict=True),
            *zip(net.decoder, theirs.decoder.layers, strict=True),
        ]:
            own = ours.attention
            copy(layer.self_attn, [own.qkv.weight], [own.qkv.bias], own.out)
            norms = [ours.attention_norm, ours.feed_forward_norm]
            if hasattr(ours, "cross"):
                own = ours.cross
                copy(layer.multihead_attn, [own.q.weight, own.kv.weight], [own.q.bias, own.kv.bias], own.out)
                norms.insert(1, ours.cross_norm)
            layer.linear1.load_state_dict(ours.feed_forward[0].state_dict())
            layer.linear2.load_state_dict(ours.feed_forward[3].state_dict())
            for i, norm in enumerate(norms, start=1):
                getattr(layer, f"norm{i}").load_state_dict(norm.state_dict())
        if pre_norm:
            theirs.encoder.norm.load_state_dict(net.encoder_norm.state_dict())
            theirs.decoder.norm.load_state_dict(net.decoder_norm.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("pre_norm", [True, False])
def test_equals_torchs_transformer(pre_norm: bool) -> None:
    net = model(pre_norm=pre_norm)
    theirs = reference(net, pre_norm)
    place = positions(5, 16)
    with torch.no_grad():
        got = net.features(SOURCE, TARGET)
        wanted = theirs(
            net.source_embedding(SOURCE) * 4 + place[:4],
            net.target_embedding(TARGET) * 4 + place,
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(5),
            src_key_padding_mask=(SOURCE == 0).float() * -1e9,
            memory_key_padding_mask=(SOURCE == 0).float() * -1e9,
            tgt_is_causal=True,
        )
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_positions_are_those_of_the_paper() -> None:
    place = positions(50, 8)
    for pos in (0, 1, 7, 49):
        for i in range(4):
            angle = torch.tensor(pos / 10000 ** (2 * i / 8))
            torch.testing.assert_close(place[pos, 2 * i], angle.sin(), atol=1e-5, rtol=0)
            torch.testing.assert_close(place[pos, 2 * i + 1], angle.cos(), atol=1e-5, rtol=0)


def test_sharing_leaves_one_matrix_and_not_sharing_three() -> None:
    one = sum(p.numel() for p in model().parameters())
    assert sum(p.numel() for p in model(shared=False).parameters()) == one + 2 * 20 * 16
    net = model()
    assert net.source_embedding.weight is net.target_embedding.weight is net.output.weight


@pytest.mark.parametrize("options", [{}, {"pre_norm": True, "shared": False}])
def test_steps_are_the_whole(options: dict[str, bool]) -> None:
    net = model(**options)
    with torch.no_grad():
        whole = net(SOURCE, TARGET)
        state = net.start(SOURCE)
        for t in range(5):
            logits, state = net.step(TARGET[:, t], state)
            torch.testing.assert_close(logits, whole[:, t], atol=1e-5, rtol=1e-5)


def test_many_steps_outgrow_the_cache_and_the_positions() -> None:
    net = model()
    target = torch.randint(4, 20, (1, 140))
    with torch.no_grad():
        state = net.start(SOURCE[:1])
        for t in range(140):
            logits, state = net.step(target[:, t], state)
        torch.testing.assert_close(logits, net(SOURCE[:1], target)[:, -1], atol=1e-5, rtol=1e-5)


def test_reordering_takes_hypotheses_along_and_lets_sentences_leave() -> None:
    net = model()
    first, second = torch.tensor([7, 8, 9]), torch.tensor([10, 11, 12])
    with torch.no_grad():
        state = net.start(SOURCE)
        _, state = net.step(torch.tensor([2, 2]), state)
        state = net.reorder(state, torch.tensor([[0, 0, 0], [1, 1, 1]]))  # from one hypothesis each to three
        _, state = net.step(torch.cat([first, second]), state)
        state = net.reorder(state, torch.tensor([[2, 1, 1], [5, 5, 3]]))
        logits, state = net.step(torch.tensor([4, 5, 6, 7, 8, 9]), state)
        rows = [(0, 9, 4), (0, 8, 5), (0, 8, 6), (1, 12, 7), (1, 12, 8), (1, 10, 9)]
        for got, (s, a, b) in zip(logits, rows, strict=True):
            wanted = net(SOURCE[s : s + 1], torch.tensor([[2, a, b]]))[0, -1]
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        state = net.reorder(state, torch.tensor([[5, 3]]))  # the first sentence leaves
        logits, state = net.step(torch.tensor([13, 14]), state)
        for got, prefix in zip(logits, ([2, 10, 9, 13], [2, 12, 7, 14]), strict=True):
            wanted = net(SOURCE[1:], torch.tensor([prefix]))[0, -1]
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)


def test_attention_of_a_step_is_a_distribution_over_the_source() -> None:
    net = model()
    with torch.no_grad():
        state = net.start(SOURCE, attention=True)
        _, state = net.step(torch.tensor([2, 2]), state)
    torch.testing.assert_close(state.attention.sum(1), torch.ones(2))
    assert not state.attention[SOURCE == 0].any()


def test_padding_changes_nothing() -> None:
    net = model()
    with torch.no_grad():
        alone = net(SOURCE[1:, :2], TARGET[1:, :3])
        torch.testing.assert_close(net(SOURCE, TARGET)[1:, :3], alone, atol=1e-5, rtol=1e-5)


def test_bf16_trains_with_nearly_the_gradient_of_fp32() -> None:
    net = model()
    gradients = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = net(SOURCE, TARGET).float().log_softmax(2)[:, :, 5].sum()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))  # type: ignore[union-attr]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_sizes_without_meaning_are_refused() -> None:
    for options in (
        {"heads": 3}, {"heads": 0}, {"encoder_layers": -1}, {"decoder_layers": 0}, {"attention_dropout": math.nan},
        {"attention_dropout": 1.5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            model(**options)


def test_a_seed_gives_the_same_weights_wherever_they_lie_in_memory() -> None:
    made = []
    for _ in range(12):
        torch.manual_seed(0)
        made.append(Transformer(**SIZES, shared=False).state_dict())  # type: ignore[arg-type]
    for other in made[1:]:
        assert all(torch.equal(weight, made[0][name]) for name, weight in other.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_works_in_other_widths(dtype: torch.dtype) -> None:
    """As people hold a model on a GPU: `.half()`."""
    net, wanted = model().to(dtype), model()(SOURCE, TARGET).detach()
    got = net(SOURCE, TARGET)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, atol=0.1 * float(wanted.std()), rtol=0.1)
    assert beam_search(net, SOURCE, bos_id=2, eos_id=3).scores.isfinite().all()
