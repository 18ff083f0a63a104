"""A training step: compiled code serves the runs of one process that differ in their seeds."""

from __future__ import annotations

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import trainer.step
from trainer.config import Config, load_config
from trainer.processes import Processes
from trainer.samples.augment import draw
from trainer.samples.batch import Batch
from trainer.step import create_stepper
from trainer.students.model import build_student

SMALL = ["student.encoder=mobilenetv3_small_050", "student.channels=8", "data.input_size=64", "data.prepared_size=64"]


def configured(*overrides: str) -> Config:
    """A small student whose step is compiled."""
    return load_config(overrides=[*SMALL, "compile=true", *overrides])


def step_once(config: Config) -> float:
    """The loss of one step on a fixed batch."""
    torch.manual_seed(config.seed)
    stepper = create_stepper(build_student(config.student), config, Processes("cpu"))
    batch = Batch(
        images=torch.arange(2 * 3 * 64 * 64).remainder(251).view(2, 3, 64, 64).byte(),
        masks=torch.eye(64).mul(255).byte().expand(2, 1, 64, 64).contiguous(),
        depth=torch.eye(64).half().expand(2, 1, 64, 64).contiguous(),
        has_mask=torch.ones(2, dtype=torch.bool),
    )
    draws = draw(2, size=64, config=config.augmentation, seed=config.seed, device=torch.device("cpu"))
    return float(stepper([(batch, draws)], step=0, progress=0.0)["loss"])


def test_samples_without_a_mask_leave_the_others_alone() -> None:
    """What masks teach does not depend, through batch norm, on the photographs without masks beside them."""
    config = load_config(overrides=[*SMALL, "depth_loss.weight=0"])
    draws = draw(4, size=64, config=config.augmentation, seed=0, device=torch.device("cpu"))
    losses = {}
    for groups in ((2, 2), ()):
        for other in (0, 255):
            torch.manual_seed(0)
            stepper = create_stepper(build_student(config.student), config, Processes("cpu"), groups)
            images = torch.arange(4 * 3 * 64 * 64).remainder(251).view(4, 3, 64, 64).byte()
            images[2:] = other
            batch = Batch(
                images=images,
                masks=torch.eye(64).mul(255).byte().expand(4, 1, 64, 64).contiguous(),
                depth=torch.full((4, 1, 64, 64), torch.nan, dtype=torch.float16),
                has_mask=torch.tensor([True, True, False, False]),
            )
            losses[groups, other] = float(stepper([(batch, draws)], step=0, progress=0.0)["loss"])
    assert losses[(2, 2), 0] == pytest.approx(losses[(2, 2), 255], rel=1e-6)
    assert losses[(), 0] != pytest.approx(losses[(), 255], rel=1e-3)


# torch.compile hides this warning of its own, unless warnings are errors
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_code_serves_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One compilation for two seeds, another one for another loss; after eight kinds of run room is made."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    monkeypatch.setattr(trainer.step, "_compiled", [])
    torch.compiler.reset()
    first = [step_once(configured(f"seed={seed}")) for seed in (0, 1)]
    once = counter.frame_count
    assert once >= 1
    assert first[0] != first[1]
    step_once(configured("seed=2"))
    assert counter.frame_count == once
    step_once(configured("depth_loss.weight=0"))
    other = counter.frame_count
    assert other > once

    monkeypatch.setattr(trainer.step, "COMPILED_AT_ONCE", 2)
    step_once(configured("blur_loss.l1=0"))
    assert len(trainer.step._compiled) == 1
    assert step_once(configured("seed=0")) == pytest.approx(first[0], rel=1e-5)
    torch.compiler.reset()
