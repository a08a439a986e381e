"""What tests of the template stand on: this repository as a clean commit, whatever lies uncommitted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copie.plugin import Copie, Result

from demo.render import REPOSITORY, snapshot

collect_ignore = ["trials"]  # runs in a rendered project

type Copy = Callable[..., Result]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one commit: the working tree."""
    return snapshot(tmp_path_factory.mktemp("template") / "reflex")


@pytest.fixture(scope="session")
def questions() -> dict[str, dict[str, Any]]:
    """The questions that are asked, by name."""
    config = yaml.safe_load((REPOSITORY / "copier.yml").read_text())
    return {
        name: question
        for name, question in config.items()
        if not name.startswith("_") and question.get("when") is not False
    }


@pytest.fixture
def copy(template: Path, questions: dict[str, Any], copie: Copie) -> Copy:
    """Render a project from answers that are not defaults."""

    def copy(**answers: str) -> Result:
        assert set(answers) <= set(questions), "an answer is to no question"
        return copie.copy(answers, template, "HEAD")  # pyright: ignore[reportUnknownMemberType] - its dict is untyped

    return copy
