"""Losses, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.config import BlurLoss, DepthLoss
from trainer.losses import blur_loss, depth_loss, joint_loss, normalise_depth, ssi_l1_loss
from trainer.losses.blur import soft_iou
from trainer.losses.depth import gradient_terms
from trainer.losses.terms import average
from trainer.outputs import StudentOutput

NAN = math.nan


def maps(*rows: list[float]) -> torch.Tensor:
    """One map (1, 1, H, W)."""
    return torch.tensor(rows)[None, None]


def test_cross_entropy_of_an_undecided_student_is_log_two() -> None:
    """A logit of 0 costs ln 2 whatever the mask."""
    loss = blur_loss(maps([0.0, 0.0]), maps([0.0, 1.0]), BlurLoss(bce=1, iou=0, l1=0))
    assert loss.item() == pytest.approx(math.log(2))


def test_l1_of_an_undecided_student_is_a_half() -> None:
    """|0.5 - t| is 0.5 for both classes."""
    loss = blur_loss(maps([0.0, 0.0]), maps([0.0, 1.0]), BlurLoss(bce=0, iou=0, l1=1))
    assert loss.item() == pytest.approx(0.5)


def test_soft_iou_by_hand() -> None:
    """p = (.5, .5), t = (0, 1): product .5, union .5 + 1 + .5 - .5 = 1.5, loss 1 - 1.5 / 2.5."""
    term = soft_iou(1.0, maps([0.5, 0.5]), maps([0.0, 1.0]), torch.ones(1, 1, 1, 2))
    assert average([term]).item() == pytest.approx(0.4)


def test_a_good_blur_map_costs_less_than_a_bad_one() -> None:
    """Every term prefers the right answer."""
    mask = maps([0.0, 1.0, 1.0, 0.0])
    for term in ("bce", "iou", "l1"):
        weights = BlurLoss(**{"bce": 0.0, "iou": 0.0, "l1": 0.0, term: 1.0})
        assert blur_loss(mask * 8 - 4, mask, weights) < blur_loss(4 - mask * 8, mask, weights)


def test_unknown_pixels_and_samples_cost_nothing() -> None:
    """A sample without a mask changes neither the loss nor the gradient of the others."""
    logits = torch.tensor([[[[1.0, -1.0]]], [[[5.0, 5.0]]]], requires_grad=True)
    mask = torch.tensor([[[[1.0, 0.0]]], [[[NAN, NAN]]]])
    both = blur_loss(logits, mask, BlurLoss())
    both.backward()
    alone = blur_loss(logits[:1].detach(), mask[:1], BlurLoss())
    assert both.item() == pytest.approx(alone.item())
    assert logits.grad is not None
    assert logits.grad[1].abs().sum() == 0
    assert torch.isfinite(logits.grad).all()
    nothing = blur_loss(logits[1:], mask[1:], BlurLoss())
    assert nothing.item() == 0


def test_normalised_depth_by_hand() -> None:
    """(0, 1, 2, 5): mean 2, mean deviation (2 + 1 + 0 + 3) / 4 = 1.5."""
    depth = maps([0.0, 1.0, 2.0, 5.0])
    expected = [-2 / 1.5, -1 / 1.5, 0, 2]
    assert normalise_depth(depth, torch.ones_like(depth)).flatten().tolist() == pytest.approx(expected)


def test_depth_loss_ignores_scale_and_shift_but_not_direction() -> None:
    """a * d + b with a > 0 costs nothing; with a < 0 it does."""
    depth = torch.rand(2, 1, 8, 8)
    assert ssi_l1_loss(3 * depth + 7, depth).item() == pytest.approx(0, abs=1e-5)
    assert depth_loss(3 * depth + 7, depth, DepthLoss()).item() == pytest.approx(0, abs=1e-5)
    assert ssi_l1_loss(-depth, depth).item() > 1


def test_depth_loss_looks_at_known_pixels_only() -> None:
    """What a student says where the label is unknown does not matter."""
    label = maps([0.0, 1.0, 2.0, NAN])
    assert ssi_l1_loss(maps([0.0, 1.0, 2.0, 99.0]), label).item() == pytest.approx(0, abs=1e-6)
    assert depth_loss(torch.rand(1, 1, 4, 4), torch.full((1, 1, 4, 4), NAN), DepthLoss()).item() == 0


def test_gradient_term_by_hand() -> None:
    """R = (0, 1; 0, 1): |dx| mean 1, |dy| mean 0 at the first scale; the second has one pixel."""
    difference = maps([0.0, 1.0], [0.0, 1.0])
    assert average(gradient_terms(1.0, difference, torch.ones_like(difference))).item() == pytest.approx(1)


def test_joint_loss_weighs_sides_and_tasks() -> None:
    """loss = fused + side weight * sides, blur + weight * depth; a side is compared at its own scale."""
    mask, depth = torch.ones(1, 1, 4, 4), torch.arange(16.0).view(1, 1, 4, 4)
    output = StudentOutput(
        blur=[torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)], depth=[depth, -depth[..., ::2, ::2]]
    )
    terms = joint_loss(
        output,
        mask,
        depth,
        blur=BlurLoss(bce=1, iou=0, l1=0, side=0.5),
        distillation=DepthLoss(weight=2, gradient=0, side=1),
    )
    assert terms["blur"].item() == pytest.approx(1.5 * math.log(2))
    assert terms["depth"].item() == pytest.approx(2, abs=0.1)  # the side output is upside down
    assert terms["loss"].item() == pytest.approx((terms["blur"] + 2 * terms["depth"]).item())
    off = joint_loss(output, mask, depth, blur=BlurLoss(), distillation=DepthLoss(weight=0))
    assert "depth" not in off


def student_output(size: int, strides: tuple[int, ...], *, count: int = 3, seed: int = 0) -> StudentOutput:
    """Random outputs that take gradients: fused, then a side output for each stride."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [size, *(size // stride for stride in strides)]
    blur, depth = ([torch.randn(count, 1, s, s, generator=generator).requires_grad_() for s in sizes] for _ in range(2))
    return StudentOutput(blur, depth)


def partly_known(size: int, *, count: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A mask and a depth label, the first sample without a mask, the second without depth, holes in the third's."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.rand(count, 1, size, size, generator=generator) > 0.5).float()
    depth = torch.rand(count, 1, size, size, generator=generator)
    mask[0], depth[1], depth[2, :, : size // 2, ::3] = NAN, NAN, NAN
    return mask, depth


@pytest.mark.slow
def test_the_joint_loss_compiles_into_one_graph() -> None:
    """No graph break, no recompilation for other values of the same shapes, the same loss and gradients."""
    compiled = torch.compile(joint_loss, fullgraph=True)
    for seed in (0, 1):
        output, (mask, depth) = student_output(32, (16, 8, 4), seed=seed), partly_known(32, seed=seed)
        weight = torch.tensor(0.1 + seed)
        results = []
        for loss in (joint_loss, compiled):
            terms = loss(output, mask, depth, blur=BlurLoss(), distillation=DepthLoss(), distillation_weight=weight)
            gradients = torch.autograd.grad(terms["loss"], output.blur + output.depth)
            results.append([*terms.values(), *gradients])
        for eager, fast in zip(*results, strict=True):
            torch.testing.assert_close(fast, eager)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
