"""FiftyOne: an index exported and a selection imported, by the real package where it is installed, and in its JSON format.

The package needs MongoDB. Where its `mongod` is not installed, `mongomock` stands in for it in this process, if that is
installed; all code of FiftyOne itself is the real one. The tests of the JSON format need neither.
"""

from __future__ import annotations

import base64
import csv
import importlib
import io
import json
import shutil
import types
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dreamsim_guidance.cli import main
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.fiftyone_dataset import fiftyone_export, fiftyone_paths
from dreamsim_guidance.retrieval.fiftyone_folder import read_fiftyone_folder, write_fiftyone_folder
from dreamsim_guidance.retrieval.fiftyone_samples import brain_key_of, check_brain_key

warm = pytest.mark.filterwarnings("ignore")  # FiftyOne and its dependencies give warnings of their own


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures, one of them twice."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        colour = torch.rand(3, 1, 1, generator=generator)
        save_image(0.7 * colour + 0.3 * torch.rand(3, 24, 32, generator=generator), folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "copy.png")
    return folder


@pytest.fixture(scope="module")
def index(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index") / "index"
    embed(pictures, folder, "pocket", device="cpu")
    return Index.open(folder)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package with an empty database of its own."""
    pytest.importorskip("fiftyone", reason="needs the extra fiftyone")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
        patch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path_factory.mktemp("database")))
        fiftyone = importlib.import_module("fiftyone")
        service = importlib.import_module("fiftyone.core.service")
        try:
            service.DatabaseService.find_mongod()
        except service.ServiceExecutableNotFound:
            stand_in(patch)
        yield fiftyone
        for name in fiftyone.list_datasets():
            fiftyone.delete_dataset(name)


def stand_in(patch: pytest.MonkeyPatch) -> None:
    mongomock = pytest.importorskip("mongomock", reason="needs mongod, or mongomock in its place")
    aggregate = importlib.import_module("mongomock.aggregate")
    importlib.import_module("mongomock.gridfs").enable_gridfs_integration()
    database = importlib.import_module("fiftyone.core.odm.database")
    store = importlib.import_module("mongomock.store").ServerStore()
    array_operator = aggregate._Parser._handle_array_operator
    connect = database.mongoengine.connect

    class Client(mongomock.MongoClient):
        _closed = False  # which a mock would take for the name of a database

        def __init__(self, *arguments: Any, appname: str = "", **options: Any) -> None:
            super().__init__(*arguments, **options | {"_store": store})

    def with_index_of_array(self: Any, operator: str, values: Any) -> Any:
        if operator != "$indexOfArray":
            return array_operator(self, operator, values)
        array, item = (self.parse(value) for value in values)
        return array.index(item) if item in array else -1

    basic_expression = aggregate._Parser._parse_basic_expression

    def with_absent_fields(self: Any, expression: Any) -> Any:
        try:
            return basic_expression(self, expression)
        except KeyError:
            return None  # as MongoDB compares a field that a document lacks

    patch.setattr(aggregate._Parser, "_handle_array_operator", with_index_of_array)
    patch.setattr(aggregate._Parser, "_parse_basic_expression", with_absent_fields)
    patch.setattr(database, "pymongo", types.SimpleNamespace(**vars(database.pymongo) | {"MongoClient": Client}))
    patch.setattr(database.mongoengine, "connect", lambda name, **o: connect(name, mongo_client_class=Client, **o))
    patch.setattr(database.fo.config, "database_uri", "mongodb://localhost")
    patch.setattr(database.fo.config, "database_validation", False)
    patch.setenv("FIFTYONE_DISABLE_SERVICES", "1")


def names(paths: list[str]) -> list[str]:
    return [Path(path).name for path in paths]


@warm
def test_the_app_offers_the_similarity_and_it_sorts_as_the_metric(package: Any, index: Index) -> None:
    written = fiftyone_export(index, "photos", duplicates=1e-4)
    assert (written.place, written.brain_key, written.pictures, written.left_out) == (
        "photos",
        "dreamsim_pocket",
        7,
        (),
    )
    dataset = package.load_dataset("photos")
    assert dataset.persistent and dataset.list_brain_runs(type="similarity") == ["dreamsim_pocket"]
    vectors = index.vectors()
    for row, path in enumerate(index.paths[:2]):
        query = dataset[path]
        assert np.allclose(query["dreamsim_pocket_embedding"], vectors[row])
        nearest = dataset.sort_by_similarity(query.id, brain_key="dreamsim_pocket", dist_field="distance")
        distances = 1 - vectors @ vectors[row]
        in_order = [distances[index.paths.index(sample.filepath)] for sample in nearest]
        assert np.allclose(in_order, np.sort(distances), atol=1e-6)
        assert np.allclose([sample["distance"] ** 2 / 2 for sample in nearest], np.sort(distances), atol=1e-6)


@warm
def test_samples_have_the_fields_of_the_index(package: Any, index: Index) -> None:
    fiftyone_export(index, "fields", duplicates=1e-4)
    samples = {Path(sample.filepath).name: sample for sample in package.load_dataset("fields")}
    assert samples["0.png"].copies == samples["copy.png"].copies == 2 and samples["1.png"].copies == 1
    assert samples["0.png"].digest == samples["copy.png"].digest != samples["1.png"].digest
    assert samples["0.png"].near_duplicates == samples["copy.png"].near_duplicates == 1
    assert samples["1.png"].near_duplicates is None
    assert samples["0.png"].nearest_distance == 0 < samples["1.png"].nearest_distance
    metadata = samples["1.png"].metadata
    assert (metadata.width, metadata.height) == (32, 24)
    assert metadata.size_bytes == Path(samples["1.png"].filepath).stat().st_size


@warm
def test_a_second_export_adds_a_key_and_keeps_tags_and_fields(package: Any, index: Index, pictures: Path) -> None:
    dataset = package.Dataset("both", persistent=True)
    existing = package.Sample(filepath=(pictures / "1.png").as_posix(), tags=["mine"], stars=5)
    dataset.add_sample(existing)
    dataset.add_sample(package.Sample(filepath="/elsewhere/other.png"))
    fiftyone_export(index, "both")
    fiftyone_export(index, "both", brain_key="second")
    fiftyone_export(index, "both", brain_key="second")  # again: the run is replaced
    dataset = package.load_dataset("both")
    assert dataset.list_brain_runs() == ["dreamsim_pocket", "second"]
    assert len(dataset) == 8  # seven of the index, and the one elsewhere
    sample = dataset[(pictures / "1.png").as_posix()]
    assert (sample.tags, sample.stars, sample.copies) == (["mine"], 5, 1)
    assert np.array_equal(sample["second_embedding"], sample["dreamsim_pocket_embedding"])


@warm
def test_a_selection_by_tag_or_view_comes_back(package: Any, index: Index, tmp_path: Path, capsys: Any) -> None:
    fiftyone_export(index, "selected")
    dataset = package.load_dataset("selected")
    assert names(fiftyone_paths("selected")) == names(index.paths)
    dataset.limit(3).tag_samples("good")
    dataset.save_view("later", dataset.skip(5))
    assert names(fiftyone_paths("selected", tags=["good"])) == names(index.paths)[:3]
    assert names(fiftyone_paths("selected", view="later")) == names(index.paths)[5:]
    with pytest.raises(ValueError, match="no saved view 'x'; known: later"):
        fiftyone_paths("selected", view="x")
    with pytest.raises(ValueError, match="no picture of the dataset 'selected' is selected"):
        fiftyone_paths("selected", tags=["bad"])
    with pytest.raises(ValueError, match="no FiftyOne dataset 'absent'; known: "):
        fiftyone_paths("absent")
    file = tmp_path / "good.csv"
    assert main(["fiftyone", "import", "selected", "--tag", "good", "--to", str(file)]) == 0
    assert capsys.readouterr().out == "3 pictures\n"
    again = tmp_path / "again"
    assert embed(file, again, "pocket", device="cpu", outside=True).embedded == 3
    assert names(Index.open(again).paths) == names(index.paths)[:3]


@warm
def test_fiftyone_imports_the_written_folder_with_its_similarity(package: Any, index: Index, tmp_path: Path) -> None:
    write_fiftyone_folder(index, tmp_path / "photos", duplicates=1e-4)
    kind = package.types.FiftyOneDataset
    dataset = package.Dataset.from_dir(dataset_dir=str(tmp_path / "photos"), dataset_type=kind, name="imported")
    fiftyone_export(index, "exported", duplicates=1e-4)
    other = package.load_dataset("exported")
    assert dataset.list_brain_runs() == other.list_brain_runs()
    assert set(dataset.get_field_schema()) == set(other.get_field_schema())
    for a, b in zip(dataset, other, strict=True):
        for field in ("filepath", "digest", "copies", "nearest_distance", "near_duplicates"):
            assert a[field] == b[field]
        assert np.array_equal(a["dreamsim_pocket_embedding"], b["dreamsim_pocket_embedding"])
        assert (a.metadata.width, a.metadata.size_bytes) == (b.metadata.width, b.metadata.size_bytes)
    orders = [
        d.sort_by_similarity(d[index.paths[1]].id, brain_key="dreamsim_pocket").values("filepath")
        for d in (dataset, other)
    ]
    assert orders[0] == orders[1]


@warm
def test_a_folder_that_fiftyone_exported_is_read(package: Any, index: Index, tmp_path: Path) -> None:
    fiftyone_export(index, "written")
    dataset = package.load_dataset("written")
    dataset.limit(2).tag_samples("good")
    dataset.export(export_dir=str(tmp_path / "out"), dataset_type=package.types.FiftyOneDataset, export_media=False)
    assert names(read_fiftyone_folder(tmp_path / "out")) == names(index.paths)
    assert names(read_fiftyone_folder(tmp_path / "out", ["good"])) == names(index.paths)[:2]


def unpacked(value: dict[str, Any]) -> np.ndarray:
    data = zlib.decompress(base64.b64decode(value["$binary"]["base64"]))
    return np.load(io.BytesIO(data), allow_pickle=False)


def test_the_json_format_is_written_without_the_package(index: Index, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    written = write_fiftyone_folder(index, folder, "photos", duplicates=1e-4)
    assert (written.brain_key, written.pictures) == ("dreamsim_pocket", 7)
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert [sample["filepath"] for sample in samples] == index.paths
    assert len({sample["_id"]["$oid"] for sample in samples}) == 7
    vectors = np.stack([unpacked(sample["dreamsim_pocket_embedding"]) for sample in samples])
    assert np.array_equal(vectors, index.vectors())
    metadata = json.loads((folder / "metadata.json").read_text())
    run = metadata["brain_methods"]["dreamsim_pocket"]
    assert (run["config"]["embeddings_field"], run["config"]["metric"]) == ("dreamsim_pocket_embedding", "euclidean")
    fields = {field["name"] for field in metadata["sample_fields"]}
    assert set(samples[0]) - {"_id"} <= fields
    assert json.loads((folder / "brain" / "dreamsim_pocket.json").read_text())["cls"].endswith("SklearnSimilarityIndex")
    assert read_fiftyone_folder(folder) == index.paths
    write_fiftyone_folder(index, folder, brain_key="other")  # replaces it
    assert [file.name for file in (folder / "brain").iterdir()] == ["other.json"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        write_fiftyone_folder(index, folder)


def json_folder(folder: Path, samples: Any, metadata: Any = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "samples.json").write_text(samples if isinstance(samples, str) else json.dumps({"samples": samples}))
    (folder / "metadata.json").write_text(json.dumps({"media_type": "image"} if metadata is None else metadata))
    return folder


def test_paths_and_tags_of_the_json_format_are_read(tmp_path: Path) -> None:
    samples = [
        {"filepath": "data/a.png", "tags": ["good", "x"]},
        {"filepath": "/pictures/b.png", "tags": []},
        {"filepath": "c.png", "tags": None},
    ]
    folder = json_folder(tmp_path, samples)
    assert read_fiftyone_folder(folder) == [f"{tmp_path}/data/a.png", "/pictures/b.png", f"{tmp_path}/c.png"]
    assert read_fiftyone_folder(folder, ["good", "absent"]) == [f"{tmp_path}/data/a.png"]


@pytest.mark.parametrize(
    ("samples", "metadata", "words"),
    [
        ([{"filepath": "../a.png"}], None, "leaves the folder"),
        ([{"tags": []}], None, "sample 0 has no filepath"),
        ([{"filepath": 3}], None, "sample 0 has no filepath"),
        ([{"filepath": "a.png", "tags": "good"}], None, "tags that are no list"),
        (["a.png"], None, "an object is needed, got str"),
        ([], None, "no picture of"),
        ("[]", None, "an object is needed, got list"),
        ('{"samples": 3}', None, "no list of samples"),
        ("{", None, "is not JSON"),
        ("[" * 100_000, None, "is not JSON"),
        ([{"filepath": "a.mp4"}], {"media_type": "video"}, "media of type video"),
        ([{"filepath": "a.png"}], [], "an object is needed, got list"),
    ],
)
def test_what_is_not_the_format_is_an_error(tmp_path: Path, samples: Any, metadata: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_fiftyone_folder(json_folder(tmp_path, samples, metadata))


def test_a_folder_without_the_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no FiftyOne dataset in JSON"):
        read_fiftyone_folder(tmp_path)


def test_keys_are_names_that_fiftyone_accepts() -> None:
    assert brain_key_of("photographs") == "dreamsim_photographs"
    assert brain_key_of("/runs/my model.safetensors") == "dreamsim_my_model"
    assert brain_key_of("é") == "dreamsim"
    for key in ("1st", "a b", "a-b", "", "é"):
        with pytest.raises(ValueError, match="must consist of letters"):
            check_brain_key(key)


def test_pictures_in_shards_are_left_out_or_written_as_files(pictures: Path, tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for name in ("1.png", "2.png"):
            shard.add(pictures / name, name)
        shard.add(pictures / "1.png", "copy of 1.png")
    embed(tmp_path / "shard.tar", tmp_path / "index", "pocket", device="cpu")
    index = Index.open(tmp_path / "index")
    with pytest.raises(ValueError, match=r"all 3 pictures .* are inside shards"):
        write_fiftyone_folder(index, tmp_path / "out")
    assert write_fiftyone_folder(index, tmp_path / "out", pictures=tmp_path / "files").left_out == ()
    files = read_fiftyone_folder(tmp_path / "out")
    assert [Path(file).read_bytes() for file in files] == [
        (pictures / name).read_bytes() for name in ("1.png", "2.png")
    ]
    embed([tmp_path / "shard.tar", pictures / "3.png"], tmp_path / "mixed", "pocket", device="cpu")
    written = write_fiftyone_folder(Index.open(tmp_path / "mixed"), tmp_path / "mixed-out")
    assert written.pictures == 1 and len(written.left_out) == 3


def test_the_command_exports_and_imports_the_json_format(index: Index, tmp_path: Path, capsys: Any) -> None:
    folder, file = tmp_path / "photos", tmp_path / "all.csv"
    assert main(["fiftyone", "export", str(index.folder), "--folder", str(folder), "--duplicates", "0.0001"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{folder}: 7 pictures, similarity dreamsim_pocket\n"
    assert "fiftyone datasets create" in output.err
    assert main(["fiftyone", "import", str(folder), "--to", str(file)]) == 0
    assert capsys.readouterr().out == "7 pictures\n"
    with file.open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == index.paths


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "INDEX"], "give either --dataset"),
        (["export", "INDEX", "--dataset", "a", "--folder", "b"], "give either --dataset"),
        (["export", "absent", "--folder", "b"], "absent"),
        (["export", "INDEX", "--folder", "b", "--key", "a b"], "must consist of letters"),
        (["import", "FOLDER", "--to", "x.csv", "--view", "v"], "a saved view needs the dataset in FiftyOne's database"),
        (["import", "FOLDER", "--to", "x.csv", "--tag", "none"], "no picture of"),
    ],
)
def test_mistakes_are_one_line(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = json_folder(tmp_path / "json", [{"filepath": "a.png"}])
    places = {"INDEX": str(index.folder), "FOLDER": str(folder)}
    assert main(["fiftyone", *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_without_the_package_the_error_says_how_to_install_it(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import_module = importlib.import_module

    def without(name: str) -> types.ModuleType:
        if name.startswith("fiftyone"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return import_module(name)

    monkeypatch.setattr("dreamsim_guidance.retrieval.fiftyone_dataset.importlib.import_module", without)
    assert main(["fiftyone", "export", str(index.folder), "--dataset", "photos"]) == 2
    assert 'pip install "dreamsim-guidance[fiftyone]"' in capsys.readouterr().err


def test_a_database_that_does_not_answer_is_one_line(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def refuse() -> None:
        raise RuntimeError("no mongod\nhere")

    stub = types.SimpleNamespace(list_datasets=refuse)
    import_module = importlib.import_module
    monkeypatch.setattr(
        "dreamsim_guidance.retrieval.fiftyone_dataset.importlib.import_module",
        lambda name: stub if name.startswith("fiftyone") else import_module(name),
    )
    assert main(["fiftyone", "export", str(index.folder), "--dataset", "photos"]) == 2
    assert "cannot be reached (no mongod here); start MongoDB" in capsys.readouterr().err
