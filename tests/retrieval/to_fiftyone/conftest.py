"""An index of seven pictures, and FiftyOne with an empty database of its own where one can be had.

The package needs MongoDB: its own `mongod`, or a server that the variable FIFTYONE_DATABASE_URI names, where the tests make a
database of their own and drop it. The tests of the JSON format need neither.
"""

from __future__ import annotations

import importlib.util
import shutil
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.retrieval import Index, embed


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, one of them twice."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        colour = torch.rand(3, 1, 1, generator=generator)
        save_image(0.7 * colour + 0.3 * torch.rand(3, 24, 32, generator=generator), folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    return folder


@pytest.fixture(scope="session")
def index(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index") / "index"
    embed(pictures, folder, "pocket", device="cpu")
    return Index.open(folder)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package with an empty database of its own."""
    if importlib.util.find_spec("fiftyone") is None:
        pytest.skip("needs the extra fiftyone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        patch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("database")))
        patch.setenv("FIFTYONE_DATABASE_NAME", f"dreamsim_tests_{uuid.uuid4().hex}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fiftyone, service, odm = map(
                importlib.import_module, ("fiftyone", "fiftyone.core.service", "fiftyone.core.odm")
            )
        if not fiftyone.config.database_uri:
            try:
                service.DatabaseService.find_mongod()
            except service.ServiceExecutableNotFound:
                pytest.skip("needs mongod, or a MongoDB that FIFTYONE_DATABASE_URI names")
        yield fiftyone
        assert odm.get_db_conn().name.startswith("dreamsim_tests_")
        odm.drop_database()
