"""Augmentation on batches: image, mask and depth move as one."""

from __future__ import annotations

import msgspec
import torch

from trainer.config import Augmentation
from trainer.samples.augment import Inputs, augment, draw, normalise, targets
from trainer.samples.batch import Batch
from trainer.students.model import IMAGENET_MEAN, IMAGENET_STD

STILL = Augmentation(min_area=1.0, aspect=0.0, flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, grey=0.0)


def ramp_batch(count: int = 6, size: int = 32) -> Batch:
    """Image, mask and depth all show the same smooth ramp, so that they can be compared pixel by pixel."""
    x = torch.linspace(0.1, 0.9, size)
    ramp = (x[None, :] * 0.7 + x[:, None] * 0.3).expand(count, 1, size, size)
    return Batch(
        images=(ramp * 255).to(torch.uint8).expand(count, 3, size, size).contiguous(),
        masks=(ramp * 255).to(torch.uint8),
        depth=ramp.half(),
        has_mask=torch.ones(count, dtype=torch.bool),
    )


def changed(batch: Batch, *, size: int, config: Augmentation, seed: int = 0) -> Inputs:
    """A batch as a step would see it."""
    draws = draw(len(batch.images), size=size, config=config, seed=seed, device=torch.device("cpu"))
    return augment(batch, draws, size=size)


def grey(images: torch.Tensor) -> torch.Tensor:
    """Undo the normalisation."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean).mean(1, keepdim=True)


def test_image_mask_and_depth_move_together() -> None:
    """After random crops and flips the three still show the same ramp."""
    config = Augmentation(brightness=0.0, contrast=0.0, saturation=0.0, grey=0.0)
    batch = ramp_batch()
    images, mask, depth, *_ = changed(batch, size=24, config=config, seed=1)
    assert images.shape == (6, 3, 24, 24)
    torch.testing.assert_close(grey(images), mask, atol=0.01, rtol=0)
    torch.testing.assert_close(depth, mask, atol=0.01, rtol=0)
    assert (mask[:, 0, 0, 0] > mask[:, 0, 0, -1]).any(), "no sample was flipped"
    assert (mask.amax((1, 2, 3)) - mask.amin((1, 2, 3))).std() > 0.01, "all crops are alike"


def test_without_any_change_a_sample_comes_back() -> None:
    """Ranges of zero are the identity."""
    batch = ramp_batch()
    images, mask, depth, *_ = changed(batch, size=32, config=STILL)
    torch.testing.assert_close(images, normalise(batch.images.float() / 255), atol=1e-4, rtol=0)
    torch.testing.assert_close((mask, depth), targets(batch), atol=1e-4, rtol=0)


def test_a_seed_means_the_same_again() -> None:
    """What a step sees is a function of its generator alone."""
    runs = [changed(ramp_batch(), size=16, config=Augmentation(noise=0.1, cutmix=0.5), seed=5)[:3] for _ in "ab"]
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*runs, strict=True))


def test_unknown_masks_and_depth_stay_unknown() -> None:
    """A sample without a mask has a mask of NaN; unknown depth never bleeds into known depth."""
    batch = ramp_batch()
    depth = batch.depth.clone()
    depth[:, :, :, :8] = torch.nan
    batch = batch._replace(has_mask=torch.tensor([True, False] * 3), depth=depth)
    _, mask, depth, *_ = changed(batch, size=32, config=STILL)
    assert torch.isfinite(mask[0]).all()
    assert torch.isnan(mask[1]).all()
    assert torch.isnan(depth[..., :8]).all()
    torch.testing.assert_close(depth[..., 9:], batch.depth[..., 9:].float(), atol=1e-3, rtol=0)


def test_colour_changes_keep_the_range_and_the_targets() -> None:
    """Strong colour changes stay within what a photograph can hold, and only the image changes."""
    config = Augmentation(min_area=1.0, aspect=0.0, flip=0.0, brightness=0.9, contrast=0.9, saturation=0.9, grey=0.5)
    images, mask, *_ = changed(ramp_batch(), size=32, config=config)
    assert grey(images).min() >= -1e-4
    assert grey(images).max() <= 1 + 1e-4
    assert (grey(images) - mask).abs().max() > 0.05
    torch.testing.assert_close(mask, targets(ramp_batch())[0], atol=1e-4, rtol=0)


def test_a_pasted_rectangle_brings_its_mask_and_hides_depth() -> None:
    """With every sample pasted into, mask and image still agree everywhere, and depth is unknown in the rectangle."""
    batch = ramp_batch()
    batch = batch._replace(
        images=torch.cat([batch.images[:3], 255 - batch.images[3:]]),
        masks=torch.cat([batch.masks[:3], 255 - batch.masks[3:]]),
    )
    config = msgspec.structs.replace(STILL, cutmix=1.0)
    images, mask, depth, *_ = changed(batch, size=32, config=config)
    torch.testing.assert_close(grey(images), mask, atol=0.01, rtol=0)
    hidden = torch.isnan(depth).float().mean((1, 2, 3))
    assert ((hidden > 0.03) & (hidden < 0.5)).all()


def test_noise_is_of_the_strength_asked_for() -> None:
    """Its deviation lies between nothing and `noise`, and the targets stay."""
    config = msgspec.structs.replace(STILL, noise=0.1)
    flat = ramp_batch()._replace(images=torch.full((6, 3, 32, 32), 128, dtype=torch.uint8))
    images, mask, *_ = changed(flat, size=32, config=config)
    deviation = (images * torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)).std((1, 2, 3))
    assert deviation.max() < 0.13  # channels differ by the means that were taken off
    torch.testing.assert_close(mask, targets(flat)[0], atol=1e-4, rtol=0)


def test_sharpness_scales_the_detail_of_the_whole_frame() -> None:
    """An impulse keeps its sum; its height follows the factor that was drawn; mask and depth stay."""
    batch = ramp_batch(4)
    images = torch.full_like(batch.images, 100)
    images[:, :, 16, 16] = 180
    batch = batch._replace(images=images)
    config = msgspec.structs.replace(STILL, sharpness=0.8)
    draws = draw(4, size=32, config=config, seed=3, device=torch.device("cpu"))
    assert ((draws.sharpness > 0.2) & (draws.sharpness < 1.8)).all()
    assert draws.sharpness.std() > 0.1
    plain, sharp = changed(batch, size=32, config=STILL), changed(batch, size=32, config=config, seed=3)
    rise, before = (grey(i.images)[:, 0] - 100 / 255 for i in (sharp, plain))
    torch.testing.assert_close(rise.sum((1, 2)), before.sum((1, 2)), atol=1e-4, rtol=0)
    left = (6 / 16) ** 2  # of an impulse under the kernel
    height = before[:, 16, 16] * (left + draws.sharpness * (1 - left))
    torch.testing.assert_close(rise[:, 16, 16], height, atol=1e-4, rtol=0)
    torch.testing.assert_close(sharp.mask, plain.mask)
    torch.testing.assert_close(sharp.depth, plain.depth)


def test_a_rectangle_comes_from_a_sample_of_the_same_group() -> None:
    """Samples with masks paste among themselves, and those without likewise."""
    for seed in range(5):
        partner = draw(
            8, size=8, config=Augmentation(cutmix=1.0), seed=seed, device=torch.device("cpu"), groups=[3, 5]
        ).partner
        assert sorted(partner[:3].tolist()) == [0, 1, 2]
        assert sorted(partner[3:].tolist()) == [3, 4, 5, 6, 7]


def test_a_smear_is_a_mean_along_its_way() -> None:
    """Eight pixels to the right turn an edge into a ramp of eight; mask and depth stay, and so do other edges."""
    batch = ramp_batch(2, size=32)
    edge = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    edge[..., 16:] = 255
    draws = draw(2, size=32, config=STILL, seed=0, device=torch.device("cpu"))
    smears = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    inputs = augment(batch._replace(images=edge), draws._replace(motion=smears), size=32)
    right, down = grey(inputs.images)[:, 0]
    expected = ((torch.arange(32) - 15.5) / 8 + 0.5).clamp(0, 1)
    torch.testing.assert_close(right, expected.expand(32, 32), atol=0.07, rtol=0)
    torch.testing.assert_close(down, (torch.arange(32) > 15).float().expand(32, 32), atol=1e-4, rtol=0)
    torch.testing.assert_close((inputs.mask, inputs.depth), targets(batch), atol=1e-4, rtol=0)


def test_smears_are_drawn_for_half_of_the_frames() -> None:
    """Up to so many pixels, in every direction; none unless asked for."""
    lengths = draw(400, size=8, config=Augmentation(motion=6.0), seed=0, device=torch.device("cpu")).motion.norm(dim=1)
    assert 0.4 < float((lengths > 0).float().mean()) < 0.6
    assert 5 < float(lengths.max()) <= 6
    assert draw(4, size=8, config=STILL, seed=0, device=torch.device("cpu")).motion.numel() == 0
