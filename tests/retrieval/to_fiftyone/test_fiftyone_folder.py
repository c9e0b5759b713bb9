"""FiftyOne's JSON format, which needs no package."""

from __future__ import annotations

import base64
import csv
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreamsim_guidance.cli import main
from dreamsim_guidance.retrieval import Index, embed
from dreamsim_guidance.retrieval.fiftyone_folder import read_fiftyone_folder, write_fiftyone_folder
from dreamsim_guidance.retrieval.fiftyone_samples import brain_key_of, check_brain_key


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
    folder, file = tmp_path / "my photos", tmp_path / "all.csv"
    assert main(["fiftyone", "export", str(index.folder), "--folder", str(folder), "--duplicates", "0.0001"]) == 0
    output = capsys.readouterr()
    assert output.out == f"{folder}: 7 pictures, similarity dreamsim_pocket\n"
    assert f"fiftyone datasets create --name 'my photos' --dataset-dir '{folder}' --type" in output.err
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
