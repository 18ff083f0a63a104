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


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute"
)  # of torch.compile itself, which hides it unless warnings are errors
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
