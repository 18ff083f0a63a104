"""Losses, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.config import BlurDistillation, BlurLoss, DepthLoss
from trainer.losses import blur_loss, depth_loss, joint_loss, soft_blur_loss, ssi_l1_loss, weight_at
from trainer.losses.blur import boundary_band
from trainer.losses.depth import depth_edges, edge_overlap, gradient, normalise, ranking
from trainer.losses.pairs import pixel_pairs
from trainer.losses.targets import pyramid
from trainer.losses.terms import average
from trainer.students.outputs import StudentOutput

NAN = math.nan


BLUR_TERMS = ("bce", "focal", "l1", "iou", "dice", "ssim", "edge")
DEPTH_TERMS = ("l1", "gradient", "plain_l1", "plain_l2", "ranking", "edges")


def maps(*rows: list[float]) -> torch.Tensor:
    """One map (1, 1, H, W)."""
    return torch.tensor(rows)[None, None]


def only_blur(term: str, **others: float) -> BlurLoss:
    return BlurLoss(**{name: float(name == term) for name in BLUR_TERMS}, **others)


def only_depth(term: str, **others: float) -> DepthLoss:
    return DepthLoss(**{name: float(name == term) for name in DEPTH_TERMS}, **others)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("bce", math.log(2)),  # whatever the mask
        ("focal", math.log(2) / 4),  # times |t - 1/2|^2
        ("l1", 0.5),
        ("iou", 0.4 + 0.4),  # p t: (0, .5), p + t - p t: (.5, 1), so 1 - 1.5 / 2.5 for either class
        ("dice", 0.2 + 0.2),  # 2 p t: (0, 1), p^2 + t^2: (.25, 1.25), so 1 - 2 / 2.5 for either class
        ("edge", math.log(2)),
        ("ssim", 1 - 0.5 * (0.0001 / 0.2501 + 1.0001 / 1.2501)),  # windows of one pixel have no variance
    ],
)
def test_what_an_undecided_student_costs(term: str, expected: float) -> None:
    """A logit of 0 on a mask (0, 1): each term by hand."""
    assert blur_loss(maps([0.0, 0.0]), maps([0.0, 1.0]), only_blur(term)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("term", BLUR_TERMS)
def test_a_good_blur_map_costs_less_than_a_bad_one(term: str) -> None:
    """Every term prefers a sharp right answer to a doubtful one, that to no answer, and that to a wrong one."""
    mask = (torch.arange(16.0) > 6).expand(1, 1, 16, 16).float()
    costs = [blur_loss(sign * (mask * 2 - 1), mask, only_blur(term)).item() for sign in (8, 1, 0, -1)]
    assert costs == sorted(costs)
    assert costs[0] < 0.1 < costs[-1]


def test_the_boundary_band_by_hand() -> None:
    """One pixel to either side of the boundary in a small map; unknown pixels have no weight and make no boundary."""
    mask = maps(*[[0.0, 0.0, 0.0, 1.0, 1.0]] * 3)
    band = boundary_band(mask, torch.ones_like(mask))
    assert band[0, 0, 1].tolist() == [0, 0, 1, 1, 0]
    known = torch.ones_like(mask)
    known[..., 3:] = 0
    assert boundary_band(mask * known, known).sum() == 0
    wide = (torch.arange(128) < 64).expand(1, 1, 128, 128).float()
    assert boundary_band(wide, torch.ones_like(wide)).sum() == 128 * 4, "a 64th of the side, both sides"


def test_ssim_is_that_of_scikit_image() -> None:
    """The same windows, constants and averaging; a hole drops the windows that it touches."""
    from skimage.metrics import structural_similarity

    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(1, 1, 20, 17, generator=generator)
    mask = torch.rand(1, 1, 20, 17, generator=generator).round()
    ours = blur_loss(torch.logit(probability), mask, only_blur("ssim")).item()
    theirs = structural_similarity(
        probability[0, 0].numpy(), mask[0, 0].numpy(), win_size=7, data_range=1, use_sample_covariance=False
    )
    assert ours == pytest.approx(1 - theirs, abs=1e-5)
    holed = mask.clone()
    holed[..., :10, :] = NAN
    below = blur_loss(torch.logit(probability[..., 10:, :]), mask[..., 10:, :], only_blur("ssim")).item()
    assert blur_loss(torch.logit(probability), holed, only_blur("ssim")).item() == pytest.approx(below, abs=1e-5)


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
    """(0, 1, 2, 5): mean 2, mean deviation (2 + 1 + 0 + 3) / 4 = 1.5; weights count as so many pixels."""
    depth = maps([0.0, 1.0, 2.0, 5.0])
    expected = [-2 / 1.5, -1 / 1.5, 0, 2]
    assert normalise([depth], torch.ones_like(depth))[0].flatten().tolist() == pytest.approx(expected)
    twice = normalise([maps([0.0, 4.0])], maps([3.0, 1.0]))[0]  # mean 1, mean deviation (3 x 1 + 3) / 4
    assert twice.flatten().tolist() == pytest.approx([-2 / 3, 2])


@pytest.mark.parametrize(
    ("term", "expected"),
    [("plain_l1", (4 / 3 + 2 / 3 + 2) / 4), ("plain_l2", (16 / 9 + 4 / 9 + 4) / 4), ("l1", 1.0), ("gradient", 0.0)],
)
def test_what_a_flat_answer_costs(term: str, expected: float) -> None:
    """A student that says 0 everywhere, against the normalised label (-4/3, -2/3, 0, 2)."""
    label = maps([0.0, 1.0, 2.0, 5.0])
    assert depth_loss(torch.zeros_like(label), label, only_depth(term)).item() == pytest.approx(expected)


@pytest.mark.parametrize("term", DEPTH_TERMS)
def test_a_good_depth_costs_less_than_a_bad_one(term: str) -> None:
    """Every term prefers the label to the label with noise, and that to another scene."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(24.0).div(6, rounding_mode="floor")
    label = normalise([steps.view(1, 1, 24, 1) + 2 * steps.view(1, 1, 1, 24)], torch.ones(1, 1, 24, 24))[0]
    noise = torch.randn(label.shape, generator=generator)
    costs = [depth_loss(map_, label, only_depth(term)).item() for map_ in (label, label + 0.2 * noise, noise)]
    assert costs[0] < costs[1] < costs[2]


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
    assert average(gradient(1.0, difference, torch.ones_like(difference)), like=difference).item() == pytest.approx(1)


def test_ranking_by_hand() -> None:
    """Halves at -1 and 1: log(1 + e^-2) a pair across in the right order, log(1 + e^2) in the wrong, 0 within one."""
    label = maps(*[[-1.0, -1.0, 1.0, 1.0]] * 4)
    first, second = pixel_pairs(4, 4, torch.device("cpu"))
    across = ((first % 4 < 2) != (second % 4 < 2)).float().mean().item()
    assert 0 < across < 1

    def cost(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        return average([ranking(1.0, ours, theirs, torch.ones_like(ours))], like=ours).item()

    assert cost(label, label) == pytest.approx(across * math.log(1 + math.exp(-2)), rel=1e-5)
    assert cost(-label, label) == pytest.approx(across * math.log(1 + math.exp(2)), rel=1e-5)
    assert cost(0 * label, label) == pytest.approx(across * math.log(2), rel=1e-5)
    assert cost(label, 0.01 * label) == pytest.approx(across * 4), "equal says the label, by 2 differs the student"


def test_pairs_are_inside_the_map_and_spread_over_it() -> None:
    """Each quadrant of the map holds a quarter of the first pixels, and of their partners."""
    first, second = pixel_pairs(80, 60, torch.device("cpu"))
    assert len(first) == len(second) == 4096
    for pixels in (first, second):
        assert pixels.min() >= 0
        assert pixels.max() < 80 * 60
        quadrant = (pixels // 60 >= 40) * 2 + (pixels % 60 >= 30)
        assert torch.bincount(quadrant).tolist() == pytest.approx([1024] * 4, rel=0.02)
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == 4096
    assert len(pixel_pairs(3, 5, torch.device("cpu"))[0]) == 15


def test_depth_edges_by_hand() -> None:
    """A jump of 2 between neighbours is a slope of 1 on both sides of it: 1 / (1 + 1/16); a flat answer shares none."""
    label = maps(*[[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]] * 3)
    edges = depth_edges(label)[0, 0, 1, 1:-1]
    assert edges.tolist() == pytest.approx([0, 16 / 17, 16 / 17, 0])
    ones = torch.ones_like(label)
    assert average([edge_overlap(1.0, label, label, ones)], like=ones).item() == pytest.approx(0)
    flat = average([edge_overlap(1.0, 0 * label, label, ones)], like=ones).item()
    assert flat == pytest.approx(1 - 1 / (2 * (16 / 17) ** 2 + 1))
    ones[..., 4] = 0
    beside = average([edge_overlap(1.0, 0 * label, label, ones)], like=ones).item()
    assert beside == pytest.approx(1 - 1 / ((16 / 17) ** 2 + 1)), "an edge next to an unknown pixel is unknown"


def test_confidence_weighs_pixels() -> None:
    """None is 1 everywhere, 0 and NaN are unknown, and a weight is as good as so many pixels."""
    generator = torch.Generator().manual_seed(0)
    student, label = torch.rand(2, 1, 2, 8, 8, generator=generator)
    everything = DepthLoss(**dict.fromkeys(DEPTH_TERMS, 1.0))
    alike = depth_loss(student, label, everything).item()
    ones = torch.ones_like(label)
    assert depth_loss(student, label, everything, confidence=ones).item() == pytest.approx(alike)
    thrice = depth_loss(student, label, DepthLoss(), confidence=3 * ones).item()
    assert thrice == pytest.approx(depth_loss(student, label, DepthLoss()).item())
    holed, confidence = label.clone(), ones.clone()
    holed[0, 0, :4, :3] = NAN
    confidence[0, 0, :2, :3], confidence[0, 0, 2:4, :3] = 0.0, NAN
    without = depth_loss(student, holed, everything).item()
    assert depth_loss(student, label, everything, confidence=confidence).item() == pytest.approx(without, rel=1e-5)
    weighted = depth_loss(maps([0.0, 0.0]), maps([0.0, 4.0]), only_depth("plain_l2"), confidence=maps([3.0, 1.0]))
    assert weighted.item() == pytest.approx((3 * (2 / 3) ** 2 + 2**2) / 4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)),
        ({"temperature": 2.0}, 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))),  # softened, .8 is 2/3
        ({"kl": 0.0, "l1": 2.0}, 2 * 0.3),
    ],
)
def test_soft_blur_by_hand(settings: dict[str, float], expected: float) -> None:
    """An undecided student, a teacher who says 0.8; unknown pixels do not count."""
    loss = soft_blur_loss(maps([0.0, 9.0]), maps([0.8, NAN]), BlurDistillation(**settings))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_blur_is_least_where_the_student_agrees(temperature: float) -> None:
    """The divergence is 0 there with gradient 0, and finite for a teacher without doubt."""
    probability = maps([0.1, 0.5, 0.9])
    logits = torch.logit(probability).requires_grad_()
    loss = soft_blur_loss(logits, probability, BlurDistillation(temperature=temperature))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert slope.abs().max().item() == pytest.approx(0, abs=1e-6)
    certain = soft_blur_loss(maps([-3.0, 3.0]), maps([0.0, 1.0]), BlurDistillation(temperature=temperature)).item()
    assert 0 < certain < 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [2, 2, 2, 2]),
        ({"schedule": "linear"}, [2, 1.5, 1, 0]),
        ({"schedule": "linear", "final": 0.5}, [2, 1.75, 1.5, 1]),
        ({"schedule": "cosine"}, [2, 1 + math.sqrt(0.5), 1, 0]),
        ({"warmup": 0.5}, [0, 1, 2, 2]),
        ({"warmup": 0.5, "schedule": "linear"}, [0, 1, 2, 0]),
        ({"warmup": 1.0, "schedule": "cosine"}, [0, 0.5, 1, 2]),
    ],
)
def test_the_weight_over_a_run_by_hand(settings: dict[str, object], expected: list[float]) -> None:
    """At the start, after a quarter, half and all of the run."""
    loss = DepthLoss(weight=2.0, **settings)  # type: ignore[arg-type]
    assert [weight_at(loss, progress) for progress in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(expected)


def test_pyramid_by_hand() -> None:
    """Means over known pixels; known where more than half is; confidence weighs; any size."""
    top = maps([1.0, 3.0, NAN, NAN], [NAN, 5.0, NAN, 7.0])
    full, half = pyramid(top, [(2, 4), (1, 2)])
    assert full.values.flatten().tolist() == [1, 3, 0, 0, 0, 5, 0, 7]
    assert full.weights.flatten().tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
    assert half.values.flatten().tolist() == [3, 0]
    assert half.weights.flatten().tolist() == [1, 0]
    (half,) = pyramid(top, [(1, 2)], maps([2.0, 1.0, 1.0, 1.0], [9.0, 0.0, 1.0, 1.0]))
    assert half.values.flatten().tolist() == pytest.approx([5 / 3, 0])
    assert half.weights.flatten().tolist() == pytest.approx([1, 0]), "the mean confidence of the known part"
    (third,) = pyramid(torch.arange(5.0).view(1, 1, 1, 5), [(1, 2)])
    assert third.values.flatten().tolist() == [1, 3], "windows of adaptive pooling where the size does not divide"


def test_pyramid_from_level_to_level_is_that_from_the_top() -> None:
    """Each size from the next larger one gives what averaging all pixels gives, also with holes."""
    _, depth = partly_known(32)
    for size, level in zip((16, 8, 2), pyramid(depth, [(32, 32), (16, 16), (8, 8), (2, 2)])[1:], strict=True):
        cells = depth.view(-1, size, 32 // size, size, 32 // size).transpose(2, 3).flatten(3)
        known = torch.isfinite(cells).float().mean(-1) > 0.5
        assert torch.equal(level.weights[:, 0] > 0, known)
        torch.testing.assert_close(level.values[:, 0], torch.where(known, cells.nanmean(-1), 0.0))


def plain_depth_loss(student: torch.Tensor, label: torch.Tensor) -> float:
    """The default depth loss of one map (H, W) as its definition reads, pixel sets and all."""
    known = torch.isfinite(label)

    def normal(depth: torch.Tensor) -> torch.Tensor:
        centred = depth - depth[known].mean()
        return centred / centred[known].abs().mean()

    difference = normal(student) - normal(label)
    loss = difference[known].abs().mean()
    for step in (1, 2, 4, 8):
        r, k = difference[::step, ::step], known[::step, ::step]
        if min(r.shape) < 2:
            break
        loss = loss + 0.5 * (r[1:] - r[:-1])[k[1:] & k[:-1]].abs().mean()
        loss = loss + 0.5 * (r[:, 1:] - r[:, :-1])[k[:, 1:] & k[:, :-1]].abs().mean()
    return loss.item()


def test_depth_loss_is_its_definition() -> None:
    """The batched sums give what boolean indexing of each sample gives, averaged over the labelled ones."""
    output, (_, depth) = student_output(24, ()), partly_known(24)
    labelled = [plain_depth_loss(output.depth[0][n, 0], depth[n, 0]) for n in (0, 2)]
    assert depth_loss(output.depth[0], depth, DepthLoss()).item() == pytest.approx(sum(labelled) / 2, rel=1e-5)


@pytest.mark.parametrize("term", [*BLUR_TERMS, *DEPTH_TERMS, "kl"])
def test_samples_without_a_target_leave_the_others_alone(term: str) -> None:
    """Neither loss nor gradients of a sample depend on another one that lacks the target, and its own are zero."""
    output, (mask, depth) = student_output(16, (4,)), partly_known(16)
    soft = mask.roll(1, 0)  # the second sample has no soft label
    blur = BlurLoss(**{name: float(name == term) for name in BLUR_TERMS})
    distillation = DepthLoss(**{name: float(name == term) for name in DEPTH_TERMS})
    settings = {
        "blur": blur,
        "distillation": distillation,
        "blur_distillation": BlurDistillation(kl=float(term == "kl")),
    }
    parts = output.blur + output.depth
    absent = 0 if term in BLUR_TERMS else 1
    if term == "l1":
        depth[0], soft[0] = NAN, NAN
    rows = [row for row in range(3) if row != absent]
    whole = joint_loss(output, mask, depth, soft_blur=soft, **settings)["loss"]
    fewer = StudentOutput(*([m[rows] for m in task] for task in output))
    alone = joint_loss(fewer, mask[rows], depth[rows], soft_blur=soft[rows], **settings)["loss"]
    assert whole.item() == pytest.approx(alone.item(), rel=1e-5)
    assert whole.item() > 0
    slopes = torch.autograd.grad(whole, parts, allow_unused=True)
    for slope in (s for s in slopes if s is not None):
        assert torch.isfinite(slope).all()
        assert slope[absent].abs().sum() == 0


def test_a_batch_without_any_target_costs_nothing() -> None:
    """No masks, no labels, no soft labels: 0, with zero gradients."""
    output, unknown = student_output(16, (4,)), torch.full((3, 1, 16, 16), NAN)
    blur, distillation = BlurLoss(**dict.fromkeys(BLUR_TERMS, 1.0)), DepthLoss(**dict.fromkeys(DEPTH_TERMS, 1.0))
    terms = joint_loss(
        output,
        unknown,
        unknown,
        blur=blur,
        distillation=distillation,
        soft_blur=unknown,
        blur_distillation=BlurDistillation(),
    )
    assert {name: value.item() for name, value in terms.items()} == dict.fromkeys(
        ("loss", "blur", "depth", "soft_blur"), 0
    )
    for slope in torch.autograd.grad(terms["loss"], output.blur + output.depth):
        assert slope.abs().sum() == 0


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


def test_joint_loss_takes_weights_of_the_step_and_soft_blur() -> None:
    """A weight of the moment, number or tensor, takes the place of the settings'; soft blur adds its own term."""
    output, (mask, depth) = student_output(16, (4,)), partly_known(16)
    soft = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    for weight in (0.25, torch.tensor(0.25)):
        terms = joint_loss(
            output,
            mask,
            depth,
            blur=BlurLoss(),
            distillation=DepthLoss(),
            distillation_weight=weight,
            soft_blur=soft,
            blur_distillation=BlurDistillation(weight=2.0),
            blur_distillation_weight=4 * weight,
        )
        expected = terms["blur"] + 0.25 * terms["depth"] + terms["soft_blur"]
        assert terms["loss"].item() == pytest.approx(expected.item())
    fused = soft_blur_loss(output.blur[0], soft, BlurDistillation()).item()
    small = soft_blur_loss(output.blur[1], torch.nn.functional.avg_pool2d(soft, 4), BlurDistillation()).item()
    assert terms["soft_blur"].item() == pytest.approx(fused + 0.2 * small, rel=1e-5)
    alone = joint_loss(
        output,
        torch.full_like(mask, NAN),
        depth,
        blur=BlurLoss(),
        distillation=DepthLoss(weight=0),
        soft_blur=soft,
        blur_distillation=BlurDistillation(weight=2.0),
    )
    assert alone["loss"].item() == pytest.approx(2 * terms["soft_blur"].item())


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
@pytest.mark.parametrize("every_term", [False, True])
def test_the_joint_loss_compiles_into_one_graph(every_term: bool) -> None:
    """No graph break, no recompilation for other values of the same shapes, the same loss and gradients."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = {"blur": BlurLoss(), "distillation": DepthLoss()}
    if every_term:
        settings = {
            "blur": BlurLoss(**dict.fromkeys(BLUR_TERMS, 1.0)),
            "distillation": DepthLoss(**dict.fromkeys(DEPTH_TERMS, 1.0)),
            "blur_distillation": BlurDistillation(l1=1.0, temperature=2.0),
        }
    compiled = torch.compile(joint_loss, fullgraph=True)
    for seed in (0, 1):
        output, (mask, depth) = student_output(16, (4,), seed=seed), partly_known(16, seed=seed)
        more = {"soft_blur": mask.roll(1, 0), "confidence": depth.roll(1, 0)} if every_term else {}
        weight = torch.tensor(0.1 + seed)
        results = []
        for loss in (joint_loss, compiled):
            terms = loss(output, mask, depth, distillation_weight=weight, **settings, **more)
            gradients = torch.autograd.grad(terms["loss"], output.blur + output.depth)
            results.append([*terms.values(), *gradients])
        for eager, fast in zip(*results, strict=True):
            torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
