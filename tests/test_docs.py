"""The documentation names what there is, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli import main
from commands.data import LAYOUTS
from trainer.config import preset_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_every_command_and_preset() -> None:
    """A new command or preset is not finished before the README has it."""
    for name in (*main.commands, *preset_names()):
        assert f"`{name}`" in README, name


def test_datasets_page_has_every_layout() -> None:
    """Each layout has a section of its own with its command."""
    text = (ROOT / "datasets.md").read_text(encoding="utf-8")
    for name in LAYOUTS:
        assert f"## {name}" in text, name
        assert f"softfocus index {name} " in text, name


def test_options_in_the_readme_exist() -> None:
    """No example uses an option that its command does not have."""
    blocks = "".join(re.findall(r"^```\n(.*?)```$", README, re.DOTALL | re.MULTILINE))
    for line in re.findall(r"^softfocus (.+)$", blocks, re.MULTILINE):
        command = main.commands[line.split()[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in line.split() if word.startswith("-")} <= known, line


def test_first_screen_has_the_two_commands() -> None:
    """What .ci/run runs: the first two shell blocks, one line each."""
    blocks = re.findall(r"^```sh\n(.*?)```$", README, re.DOTALL | re.MULTILINE)[:2]
    assert [block.count("\n") for block in blocks] == [1, 1]
    assert blocks[0].rstrip().endswith("softfocus demo")
    assert blocks[1].rstrip().endswith("pytest")


PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "EXPERIMENTS.md", "datasets.md"]
PAGES += [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link and picture exists."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"
