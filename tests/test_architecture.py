"""Who may import whom: the command line both stages, the trainer only the contract, stage 1 never stage 2."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEACHER_MODULES = ("pipeline.teachers", "pipeline.distill", "transformers", "onnxruntime")


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at its top or anywhere inside."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def loaded_after(statement: str) -> set[str]:
    """Modules in a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("file", sorted((ROOT / "trainer").rglob("*.py")), ids=lambda f: f.name)
def test_trainer_knows_stage_1_by_its_contract_alone(file: Path) -> None:
    """`pipeline.contract` is the only module of stage 1 that stage 2 imports."""
    assert {name for name in imports(file) if name.split(".")[0] in ("pipeline", "commands", "benchmarks", "cli")} <= {
        "pipeline.contract"
    }


@pytest.mark.parametrize("file", sorted((ROOT / "pipeline").rglob("*.py")), ids=lambda f: f.name)
def test_pipeline_never_imports_the_trainer(file: Path) -> None:
    """Stage 1 can be used without stage 2."""
    assert not {name for name in imports(file) if name.split(".")[0] in ("trainer", "commands", "benchmarks", "cli")}


def test_training_never_loads_a_teacher() -> None:
    """Importing all that a training run uses brings in no teacher and no library of one."""
    loaded = loaded_after("import trainer.train, trainer.evaluate, trainer.predict")
    assert "torch" in loaded
    assert not [name for name in loaded if name.startswith(TEACHER_MODULES)]


def test_help_loads_nothing_heavy() -> None:
    """`softfocus --help` must answer at once, so no command imports no numerical library."""
    loaded = loaded_after("import cli")
    assert not loaded & {
        "torch",
        "timm",
        "numpy",
        "h5py",
        "transformers",
        "onnxruntime",
        "matplotlib",
        "skimage",
        "PIL",
    }
