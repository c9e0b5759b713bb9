from pathlib import Path

import pytest
from judged_pictures import write_judged_pictures
from tiny_tuning import tuning


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Judgments for tests that only read them."""
    return write_judged_pictures(tmp_path_factory.mktemp("judged"))


@pytest.fixture(scope="session")
def plain_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tuning(data)`, carried out once, for tests that only read it."""
    folder = tmp_path_factory.mktemp("plain run")
    tuning(data).run(folder)
    return folder
