"""The distillation loss: a student's depth against the stored label. Its terms are chosen in `DepthLoss`.

A label is known up to scale and shift. All terms but the plain ones bring the student's map to the same
normal form as the label, so they are 0 where prediction = a * label + b with a > 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import DepthLoss
from trainer.losses.pairs import pixel_pairs
from trainer.losses.targets import Target, as_target
from trainer.losses.terms import Term, average, mean, overlap, sample_sums

__all__ = ["depth_edges", "depth_loss", "depth_terms", "edge_overlap", "gradient", "normalise", "ranking"]
__all__ += ["ssi_l1_loss"]

EPSILON = 1e-6
GRADIENT_SCALES = 4
RANKING_MARGIN = 0.1  # normalised depths that differ by less count as equal
EDGE_CONTRAST = 0.25  # an edge counts half where the normalised depth changes by this much a pixel


def depth_loss(prediction: Tensor, label: Tensor, weights: DepthLoss, *, confidence: Tensor | None = None) -> Tensor:
    """The weighted sum of the chosen terms at one scale; all (B, 1, H, W), NaN = unknown in the label."""
    return average(depth_terms(prediction.float(), as_target(label, confidence), weights))


def ssi_l1_loss(prediction: Tensor, label: Tensor) -> Tensor:
    """Scale-and-shift-invariant L1 alone: 0 iff prediction = a * label + b with a > 0."""
    return depth_loss(prediction, label, DepthLoss(l1=1.0, gradient=0.0))


def depth_terms(prediction: Tensor, label: Target, weights: DepthLoss, factor: float = 1.0) -> list[Term]:
    """The terms that have a weight, each times `factor`, at one scale (B, 1, h, w).

    The two plain terms compare the prediction as it is with the normalised label: the student then learns
    scale and shift of the normal form as well.
    """
    known = label.weights
    ours, theirs = normalise([prediction, label.values], known)
    terms: list[Term] = []
    if weights.l1:
        terms.append(mean(factor * weights.l1, (ours - theirs).abs(), known))
    if weights.gradient:
        terms += gradient(factor * weights.gradient, ours - theirs, known)
    if weights.plain_l1:
        terms.append(mean(factor * weights.plain_l1, (prediction - theirs).abs(), known))
    if weights.plain_l2:
        terms.append(mean(factor * weights.plain_l2, (prediction - theirs) ** 2, known))
    if weights.ranking:
        terms.append(ranking(factor * weights.ranking, ours, theirs, known))
    if weights.edges:
        terms.append(edge_overlap(factor * weights.edges, ours, theirs, known))
    return terms


def normalise(maps: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """(d - mean) / mean |d - mean| of each sample of each map, in weighted means.

    The scale-and-shift-invariant normalisation of Ranftl et al., Towards Robust Monocular Depth
    Estimation, TPAMI 2022, eq. 5, with the mean in the median's place: a batched masked median is
    not to be had cheaply, and the labels come from one smooth teacher without outliers.

    Args:
        maps: each (B, 1, h, w).
        weights: likewise; where it is 0 the result is of no meaning, but finite.
    """
    total, *sums = sample_sums([weights, *(depth * weights for depth in maps)]).view(-1, len(weights), 1, 1, 1)
    total = torch.where(total > 0, total, 1.0)
    centred = [depth - s / total for depth, s in zip(maps, sums, strict=True)]
    spreads = sample_sums([depth.abs() * weights for depth in centred]).view(-1, len(weights), 1, 1, 1) / total
    return [depth / spread.clamp_min(EPSILON) for depth, spread in zip(centred, spreads, strict=True)]


def gradient(factor: float, difference: Tensor, weights: Tensor) -> list[Term]:
    """Mean |d/dx R| + |d/dy R| of R = normalised prediction - label, summed over four halvings of the size.

    Li and Snavely, MegaDepth, CVPR 2018, eq. 6, on normalised inverse depth as in Ranftl et al. A halved
    map holds every second pixel. A pair of pixels counts by the product of its weights.
    """
    height, width = difference.shape[-2:]
    rows, columns = _positions(difference)
    terms: list[Term] = []
    for step in (2**scale for scale in range(GRADIENT_SCALES)):
        if min(height, width) <= step:
            break
        kept = (rows % step == 0) & (columns % step == 0)
        for axis, inside in ((-2, rows < height - step), (-1, columns < width - step)):
            # rolled maps have one shape for all scales, so that the terms are summed in one pass
            both = weights * weights.roll(-step, axis) * (kept & inside)
            terms.append(mean(factor, (difference.roll(-step, axis) - difference).abs(), both))
    return terms


def ranking(factor: float, ours: Tensor, theirs: Tensor, weights: Tensor) -> Term:
    """The order of pairs of pixels: log(1 + exp(-s (p_i - p_j))) where the label says s = 1 or -1, else (p_i - p_j)^2.

    Chen et al., Single-Image Depth Perception in the Wild, NeurIPS 2016, eq. 1; pairs spread over the map
    as in Xian et al., Structure-Guided Ranking Loss, CVPR 2020, eq. 1, but always the same ones (see
    `pixel_pairs`): crops and flips put them elsewhere in the scene at each step. s is the sign of the
    label's difference, and 0 where that is below 0.1 mean deviations. It is taken of the normalised
    maps, so that stretching a prediction gains nothing. A pair counts by the product of its weights.
    """
    first, second = pixel_pairs(ours.shape[-2], ours.shape[-1], ours.device)
    one, other = (torch.stack([ours, theirs, weights]).flatten(2)[..., place] for place in (first, second))
    (p, t, _), both = one - other, one[2] * other[2]
    ordered = F.softplus(-t.sign() * p)
    cost = torch.where(t.abs() > RANKING_MARGIN, ordered, p**2)
    return mean(factor, cost[:, None, None], both[:, None, None])


def edge_overlap(factor: float, ours: Tensor, theirs: Tensor, weights: Tensor) -> Term:
    """1 - 2 sum(e f) / sum(e^2 + f^2) of the edge maps e and f of prediction and label.

    The Dice loss for edges of Deng et al., Learning to Predict Crisp Boundaries, ECCV 2018, eq. 3, which
    the many pixels without an edge do not drown, with 1 added to both sums. It sees where depth jumps,
    not which side is nearer: use it beside a term that does.
    """
    height, width = weights.shape[-2:]
    rows, columns = _positions(weights)
    inside = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    around = [weights.roll(step, axis) for axis in (-2, -1) for step in (1, -1)]
    known = torch.stack([weights, *around]).amin(0) * inside
    e, f = depth_edges(ours), depth_edges(theirs)
    return overlap(factor, 2 * e * f, e**2 + f**2, known)


def depth_edges(depth: Tensor) -> Tensor:
    """Soft edge map in [0, 1) of normalised depth: g^2 / (g^2 + 0.25^2), g its central-difference gradient.

    Geman and McClure's function of the gradient: slopes of 0.05 mean deviations a pixel count 0.04, jumps
    of two between neighbours 0.94. Pixels at the border wrap around and are of no meaning.
    """
    squared = torch.zeros_like(depth)
    for axis in (-2, -1):
        squared = squared + ((depth.roll(-1, axis) - depth.roll(1, axis)) / 2) ** 2
    return squared / (squared + EDGE_CONTRAST**2)


def _positions(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Row (h, 1) and column (w,) of each pixel."""
    height, width = maps.shape[-2:]
    return torch.arange(height, device=maps.device).view(-1, 1), torch.arange(width, device=maps.device)
