"""The command line: exit codes, one-line errors, JSON on stdout, nothing heavy before it is needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import QUICK

from cli import _is_lack_of_memory, main
from commands.console import show_result
from commands.data import LAYOUTS
from pipeline.errors import SoftfocusError


def run(*arguments: object) -> Result:
    """A command as a shell would run it."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_every_command_explains_itself() -> None:
    """Each has a help text, and the data commands an example in it."""
    for name, command in main.commands.items():
        text = run(name, "--help").output
        assert command.help
        assert name == "demo" or "Example" in text, name


def test_the_whole_road_works(small_set: Path, tmp_path: Path) -> None:
    """Index, label, train, evaluate, predict: five commands, each with one JSON object on stdout."""
    photos, manifest, store, model = small_set.parent / "photos", tmp_path / "m.jsonl", tmp_path / "s", tmp_path / "r"
    done = run("index", "pairs", photos, "-o", manifest, "--polarity", "white-is-blur", "--jobs", 1, "--json")
    assert json.loads(done.stdout)["samples"] == 18
    done = run("label", manifest, store, "--teacher", "student:" + str(tiny_student(tmp_path)), "--json")
    assert json.loads(done.stdout)["labelled"] == 18, done.stderr
    quick = [part for override in QUICK for part in ("--set", override)]
    done = run("train", manifest, "--labels", store, "-o", model, *quick, "--device", "cpu", "--json")
    assert json.loads(done.stdout)["epochs"] == 3, done.stderr
    table = tmp_path / "rows.csv"
    done = run("evaluate", manifest, "--model", model, "--split", "train", "--per-image", table, "--json")
    report = json.loads(done.stdout)
    assert set(report["measures"]) == {"dffnet", "paper", "paper_corrected", "adaptive", "best_per_image", "max"}
    assert len(table.read_text().splitlines()) == report["images"] + 1
    done = run("predict", photos / "image", "-o", tmp_path / "maps", "--model", model)
    assert done.exit_code == 0
    assert len(list((tmp_path / "maps").glob("*.png"))) == 18


def tiny_student(folder: Path) -> Path:
    """A student with random weights, to label with."""
    from trainer.checkpoint import save_student
    from trainer.config import load_config
    from trainer.students.model import create_student

    config = load_config(overrides=QUICK)
    network = create_student("lite", encoder="test_efficientnet", channels=16)
    save_student(folder / "tiny.safetensors", network.state_dict(), config)
    return folder / "tiny.safetensors"


def test_one_bad_photograph_is_listed_and_the_run_goes_on(small_set: Path, tmp_path: Path) -> None:
    """Changed after indexing: exit code 3, the name and the reason on stderr, the others labelled."""
    (small_set.parent / "photos" / "image" / "03.png").write_bytes(b"broken")
    model = tiny_student(tmp_path)
    done = run("label", small_set, tmp_path / "s", "--teacher", f"student:{model}", "--json")
    assert done.exit_code == 3
    assert "small/03" in done.stderr
    assert json.loads(done.stdout)["labelled"] == 17
    done = run("train", small_set, "--labels", tmp_path / "s", "-o", tmp_path / "r")
    assert done.exit_code == 1
    assert "1 of 12 samples lack a mask or a label" in done.stderr
    done = run("label", small_set, tmp_path / "s", "--teacher", f"student:{model}")
    assert done.exit_code == 3, "a second run forgot the photograph that failed"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["index", "pairs", "{tmp}/absent", "-o", "{tmp}/m", "--polarity", "white-is-blur"], 1, "absent"),
        (["index", "nolayout", "x", "-o", "y"], 2, "nolayout"),
        (["label", "{set}", "{tmp}/s", "--teacher", "oracle"], 1, "oracle"),
        (["label", "{tmp}/none.jsonl", "{tmp}/s", "--teacher", "demo"], 1, "none.jsonl"),
        (["label", "{set}", "{tmp}/s", "--teacher", "onnx:{tmp}/none.onnx"], 1, "none.onnx"),
        (["label", "{set}", "{tmp}/s", "--teacher", "student:{tmp}/none"], 1, "none"),
        (["train", "{set}", "-o", "{tmp}/r", "--preset", "huge"], 1, "huge"),
        (["train", "{set}", "-o", "{tmp}/r", "--labels", "{tmp}/none"], 1, "none"),
        (["train", "{set}", "-o", "{tmp}/r", "--set", "epoch=3"], 1, "epoch"),
        (["evaluate", "{set}", "--model", "{tmp}/none"], 1, "none"),
        (["predict", "{tmp}/none", "-o", "{tmp}/maps", "--model", "{tmp}/none"], 1, "none"),
        (["synth", "{tmp}/scenes", "--size", "10", "10"], 2, "size"),
    ],
)
def test_a_users_mistake_costs_one_line(
    arguments: list[str], code: int, words: str, small_set: Path, tmp_path: Path
) -> None:
    """The file or option is named, without a traceback; 1 for bad input, 2 for wrong usage."""
    done = run(*(a.format(tmp=tmp_path, set=small_set) for a in arguments))
    assert done.exit_code == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if code == 1:
        assert len(done.stderr.strip().splitlines()[-1]) > 0
        assert done.stderr.strip().splitlines()[-1].startswith("softfocus: ")


def test_a_store_of_another_teacher_is_refused(small_set: Path, small_labels: Path, tmp_path: Path) -> None:
    """Both teachers are named."""
    done = run("label", small_set, small_labels, "--teacher", f"student:{tiny_student(tmp_path)}")
    assert done.exit_code == 1
    assert "brightness" in done.stderr


def test_interruption_has_its_own_exit_code(small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with 130 and says that the same command goes on."""

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.distill.label", interrupted)
    done = run("label", small_set, tmp_path / "s", "--teacher", "demo")
    assert done.exit_code == 130
    assert "goes on where it stopped" in done.stderr


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    """A figure that is not defined is null, at any depth."""
    show_result({"iou": float("nan"), "rows": [{"f": float("inf"), "mae": 0.5}]}, True, [])
    assert json.loads(capsys.readouterr().out) == {"iou": None, "rows": [{"f": None, "mae": 0.5}]}


def test_what_the_command_line_repeats_is_what_the_library_says() -> None:
    """Layouts stand in commands/ too, so that --help loads nothing heavy."""
    from pipeline.datasets import LAYOUTS as LIBRARY_LAYOUTS

    assert set(LAYOUTS) == set(LIBRARY_LAYOUTS)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("verify s --seed -1", "-1 is not in the range"),
        ("verify s --tolerance nan", "nan is not a number"),
        ("synth s --seed -1", "-1 is not in the range"),
        ("synth s --jobs 0", "0: give a number from 1, or -1"),
        ("refocus m --labels s -o out --jobs -2", "-2 is not in the range"),
        ("runs compare a --with b --confidence nan", "nan is not a number"),
        ("evaluate m --model r --input-size 10000000", "10000000 is not in the range"),
        ("label m s --teacher demo --device cpu,cuda:77", "cuda:77 is not there"),
        ("sweep m -o out --device cpu,tpu", "tpu is not there"),
    ],
)
def test_absurd_options_are_wrong_usage(command: str, words: str) -> None:
    """Exit code 2, before anything is read or a process started."""
    done = CliRunner().invoke(main, command.split())
    assert done.exit_code == 2
    assert words in done.output


@pytest.mark.parametrize("option", ["--epochs", "--batch-size"])
def test_an_option_of_zero_is_given(tmp_path: Path, option: str) -> None:
    """0 is refused as any wrong value, not taken for an option that was left away."""
    done = CliRunner().invoke(main, ["train", "m.jsonl", "-o", str(tmp_path / "run"), option, "0"])
    assert done.exit_code == 1
    assert "is 0; it must be a whole number >= 1" in str(done.exception) + done.output


def test_the_demo_takes_a_folder_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands are quoted, as one would type them."""
    asked: list[list[str]] = []

    def note(*, args: list[str], **_: object) -> int:
        asked.append(args)
        return 5

    run = main.main
    monkeypatch.setattr(main, "main", note)
    with pytest.raises(SoftfocusError, match="ended with 5"):
        run(["demo", "-o", str(tmp_path / "my demo")], standalone_mode=False)
    assert asked[0][:2] == ["synth", str(tmp_path / "my demo" / "scenes")]


def test_lack_of_memory_is_one_line() -> None:
    """Python's, a GPU's, and torch's on the CPU, which is a plain RuntimeError; any other stays an error of ours."""
    import torch

    for error, is_lack in (
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), True),
        (RuntimeError("shapes differ"), False),
    ):
        assert _is_lack_of_memory(error) == is_lack
