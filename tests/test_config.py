"""Presets, files and overrides make one checked configuration."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from trainer.config import Config, ConfigError, dump_config, load_config, preset_names


def test_every_preset_loads_and_names_its_student() -> None:
    """Each preset is complete and builds the student of its own name; `base` is `lite` on a larger encoder."""
    assert preset_names() == ["base", "lite", "paper-resnext101", "paper-vgg16"]
    for name in preset_names():
        assert load_config(preset=name).student.name == ("lite" if name == "base" else name)


def test_later_sources_win_and_leave_the_rest_alone(tmp_path: Path) -> None:
    """An override beats the file, the file beats the preset, and untouched values stay."""
    file = tmp_path / "mine.yaml"
    file.write_text("epochs: 7\noptimiser: {lr: 0.5, clip: 2}\n")
    config = load_config(file=file, overrides=["optimiser.lr=1e-2", "student.encoder_weights=none"])
    assert (config.epochs, config.optimiser.lr, config.optimiser.clip) == (7, 0.01, 2.0)
    assert config.student.encoder_weights == "none"
    assert config.optimiser.weight_decay == Config().optimiser.weight_decay


def test_a_dumped_configuration_loads_as_itself(tmp_path: Path) -> None:
    """What a run folder keeps is the whole truth."""
    config = load_config(overrides=["seed=3", "optimiser.betas=[0.8, 0.9]"])
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file=file) == config
    assert yaml.safe_load(dump_config(config))["seed"] == 3
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.learning_rate=1", "learning_rate"),
        ("epochs=soon", "epochs"),
        ("optimiser.beta=1", "optimiser.beta: no such key; did you mean betas"),
        ("epochs=0", "epochs is 0; it must be a whole number >= 1"),
        ("data.steps=0", "data.steps is 0"),
        ("data.test_sizes=[64, 0]", r"data.test_sizes\[1\] is 0"),
        ("data.splits=[test]", "'test'; choose train or val"),
        ("student.channels=0", "student.channels is 0"),
        ("student.context=foo", "choose attention, none or srfb"),
        ("optimiser.lr=.inf", "optimiser.lr is inf"),
        ("optimiser.lr=.nan", "optimiser.lr is nan"),
        ("optimiser.ema=1", "optimiser.ema is 1"),
        ("optimiser.betas=[2, 3]", r"optimiser.betas\[0\] is 2"),
        ("optimiser.warmup=5", "optimiser.warmup is 5"),
        ("augmentation.flip=2", "augmentation.flip is 2"),
        ("log.pictures=-1", "log.pictures is -1"),
        ("seed=99999999999999999999", "seed is 9"),
        ("student=3", "student is 3; it must be keys and values"),
        ("data.prepared_size=100", "smaller than data.input_size"),
        ("augmentation.min_area=0", "min_area"),
        ("precision=half", "precision"),
        ("blur_loss.bce=-1", "blur_loss.bce"),
        ("depth_loss.schedule=steep", "depth_loss.schedule"),
        ("depth_loss.warmup=2", "depth_loss.warmup"),
        ("blur_distillation.temperature=0", "blur_distillation.temperature"),
        ("epochs", "KEY=VALUE"),
        ("=3", "KEY=VALUE"),
    ],
)
def test_a_bad_override_is_named(override: str, words: str) -> None:
    """The message names the key, in one line."""
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(overrides=[override])
    assert "\n" not in str(caught.value)


def test_bad_files_and_presets_are_named(tmp_path: Path) -> None:
    """An absent preset, an absent file, and files that are not keys and values."""
    with pytest.raises(ConfigError, match="lite, paper"):
        load_config(preset="huge")
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load_config(file=tmp_path / "none.yaml")
    for text in ("a: [1", "- 1\n- 2\n"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.yaml"):
            load_config(file=tmp_path / "bad.yaml")
