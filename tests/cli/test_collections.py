"""The commands on embedded collections: search, matrix, duplicates, diversity, consistency."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.retrieval import embed

METRIC = ("--metric", "tiny.safetensors")


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: DreamSim) -> Path:
    """Frames f1, f2, ..., f12 of a slow change, a broken one, and the tiny metric."""
    monkeypatch.chdir(tmp_path)
    metric.save("tiny.safetensors", source="random weights of a test", licence="none")
    (tmp_path / "frames").mkdir()
    first, last = torch.rand(2, 3, 24, 32)
    for i in range(1, 13):
        save_image((first + (last - first) * i / 12)[None], tmp_path / "frames" / f"f{i}.png")
    (tmp_path / "frames" / "broken.png").write_text("no picture")
    return tmp_path


@pytest.fixture
def index(workdir: Path) -> str:
    embed("frames", "index", "tiny.safetensors", progress=False)
    return "index"


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(list(words)) == code
    out, err = capsys.readouterr()
    return out, err


def width(picture: str) -> int:
    with PILImage.open(picture) as opened:
        return opened.width


def test_search_prints_a_table(capsys: pytest.CaptureFixture[str], index: str, workdir: Path) -> None:
    shutil.copy("frames/f3.png", "frames/f30.png")
    embed("frames", index, progress=False)
    out, err = run(capsys, "search", index, "frames/f3.png", "--k", "3")
    lines = [line.split() for line in out.splitlines()]
    assert lines[:3] == [
        ["distance", "path"],
        ["1", "0.0000", f"{workdir}/frames/f3.png"],
        ["copy", f"{workdir}/frames/f30.png"],
    ]
    assert {lines[3][2], lines[4][2]} == {f"{workdir}/frames/f2.png", f"{workdir}/frames/f4.png"} and err == ""


def test_search_prints_json(capsys: pytest.CaptureFixture[str], index: str, workdir: Path) -> None:
    out, _ = run(capsys, "search", index, "frames/f1.png", "frames/f12.png", "--combine", "min", "--k", "2", "--json")
    result = json.loads(out)
    assert {Path(match["path"]).name for match in result["matches"]} == {"f1.png", "f12.png"}
    assert all(match["distance"] == 0 and match["copies"] == [] for match in result["matches"])
    assert result["combine"] == "min" and result["queries"] == ["frames/f1.png", "frames/f12.png"]


def test_search_with_unwanted_pictures_shows_scores(capsys: pytest.CaptureFixture[str], index: str) -> None:
    out, _ = run(capsys, "search", index, "frames/f6.png", "--unlike", "frames/f12.png", "--k", "2")
    assert out.splitlines()[0].split() == ["distance", "score", "path"]


def test_search_takes_a_mask_and_writes_page_and_sheet(capsys: pytest.CaptureFixture[str], index: str) -> None:
    mask = torch.zeros(1, 3, 24, 32)
    mask[..., 16:] = 1
    save_image(mask, "mask.png")
    out, err = run(
        capsys, "search", index, "frames/f6.png", "--mask", "mask.png", "--html", "out/p.html", "--sheet", "out/s.png"
    )
    assert float(out.splitlines()[1].split()[1]) > 0
    assert "written: out/p.html" in err and "written: out/s.png" in err
    assert Path("out/p.html").read_text(encoding="utf-8").count("<img") == 1 + 12
    assert width("out/s.png") > 500


def test_fewer_pictures_than_asked_are_said(capsys: pytest.CaptureFixture[str], index: str) -> None:
    out, err = run(capsys, "search", index, "frames/f6.png", "--k", "100")
    assert len(out.splitlines()) == 13 and "the index has 12 different pictures, fewer than 100" in err


def test_matrix_of_files_is_that_of_the_metric(capsys: pytest.CaptureFixture[str], metric: DreamSim) -> None:
    out, _ = run(capsys, "matrix", "frames/f1.png", "frames/f12.png", *METRIC, "--json")
    expected = float(metric(load_image("frames/f1.png"), load_image("frames/f12.png")))
    assert json.loads(out)["distances"] == [
        [0, pytest.approx(expected, abs=1e-4)],
        [pytest.approx(expected, abs=1e-4), 0],
    ]


def test_matrix_embeds_every_picture_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[int] = []
    directions = DreamSim.directions

    def counted(self: DreamSim, images: object, *rest: object) -> object:
        batch = images if isinstance(images, torch.Tensor) else next(iter(images.values()))  # type: ignore[attr-defined]
        embedded.append(len(batch))
        return directions(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(DreamSim, "directions", counted)
    _, err = run(capsys, "matrix", "frames", *METRIC, "--csv", "m.csv")
    assert 12 <= sum(embedded) <= 13  # one may find the dimension
    assert "left out: " in err and "broken.png (not a picture)" in err
    with open("m.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    names = [Path(path).stem for path in head[1:]]
    assert names == [f"f{i}" for i in range(1, 13)] == [Path(row[0]).stem for row in rows]
    values = np.array([row[1:] for row in rows], float)
    assert (values == values.T).all() and not values.diagonal().any() and (values[0, 1:] > 0).all()


def test_matrix_by_similarity_is_drawn(capsys: pytest.CaptureFixture[str], index: str) -> None:
    run(capsys, "matrix", index, "--order", "similarity", "--csv", "m.csv", "--png", "m.png")
    with open("m.csv", newline="", encoding="utf-8") as file:
        order = [int(Path(path).stem[1:]) for path in next(csv.reader(file))[1:]]
    assert order in (sorted(order), sorted(order, reverse=True))  # neighbours in time are alike
    assert width("m.png") > 500


def test_large_collections_are_listed_by_nearest_neighbour(capsys: pytest.CaptureFixture[str], index: str) -> None:
    save_image(torch.rand(1, 3, 24, 32), "frames/f13.png")
    embed("frames", index, progress=False)
    out, _ = run(capsys, "matrix", index)
    assert len(out.splitlines()) == 15 and out.splitlines()[-1].startswith("13 pictures, mean distance of all pairs 0.")


def test_duplicates_propose_and_delete_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("frames/f2.png", "frames/again.png")
    before = {file: file.read_bytes() for file in Path("frames").iterdir()}
    out, err = run(capsys, "duplicates", "frames", *METRIC, "--threshold", "0", "--html", "d.html")
    lines = [line.split() for line in out.splitlines()]
    assert lines[1][:2] == ["1", "keep"] and lines[1][-1].endswith("/again.png")
    assert lines[2][0] == "copy" and lines[2][-1].endswith("/f2.png")
    assert "keeping one of each would spare 1 pictures" in out and "written: d.html" in err
    assert {file: file.read_bytes() for file in Path("frames").iterdir()} == before


def test_duplicates_print_json_with_a_suggested_threshold(capsys: pytest.CaptureFixture[str], index: str) -> None:
    out, err = run(capsys, "duplicates", index, "--json")
    result = json.loads(out)
    assert result["threshold"] == result["suggestion"]["threshold"] and "distances to the nearest neighbour" in err
    for group in result["groups"]:
        assert group["keep"] == group["pictures"][0]["path"] and group["diameter"] <= result["threshold"]


def test_diversity_compares_collections_at_one_size(capsys: pytest.CaptureFixture[str], index: str) -> None:
    Path("same").mkdir()
    for i in range(5):
        shutil.copy("frames/f1.png", f"same/{i}.png")
    out, _ = run(capsys, "diversity", index, "same", *METRIC, "--q", "1", "2", "inf", "--json")
    result = json.loads(out)["collections"]
    assert result["same"]["vendi"] == {q: pytest.approx(1, abs=1e-4) for q in ("1", "2", "inf")}
    assert result["same"]["mean_distance"]["value"] == 0
    assert result[index]["vendi_of_subsets"]["1"]["size"] == 5 and result[index]["vendi"]["1"] > 1.001
    out, _ = run(capsys, "diversity", index)
    assert "95 % bootstrap interval over pictures" in out and "subsets" not in out


def test_consistency_of_frames_in_the_order_of_their_numbers(
    capsys: pytest.CaptureFixture[str], metric: DreamSim
) -> None:
    out, _ = run(capsys, "consistency", "frames", *METRIC, "--json", "--csv", "c.csv", "--plot", "c.png")
    (video,) = json.loads(out).values()
    assert [Path(frame["path"]).stem for frame in video["frames"]] == [f"f{i}" for i in range(1, 13)]
    images = torch.cat([load_image(f"frames/f{i}.png") for i in range(1, 13)])
    rows = metric.directions(images).double().numpy()
    to_previous = np.clip((rows[1:] * rows[:-1]).sum(1), 0, None)
    to_first = np.clip(rows[1:] @ rows[0], 0, None)
    assert video["consistency"] == pytest.approx(float((to_previous + to_first).mean() / 2), abs=1e-4)
    with open("c.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 12 and lines[0]["distance_to_previous"] == ""
    assert float(lines[5]["distance_to_first"]) == pytest.approx(video["frames"][5]["to_first"], rel=1e-4)
    assert width("c.png") > 500


def test_every_folder_is_a_video_also_in_an_index(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Path("videos", name).mkdir(parents=True)
        for i in (9, 10, 11):
            shutil.copy(f"frames/f{i if name == 'a' else 9}.png", f"videos/{name}/{i}.png")
    embed("videos", "index", "tiny.safetensors", progress=False)
    outs = [run(capsys, "consistency", source, *METRIC)[0] for source in ("videos", "index")]
    assert outs[0] == outs[1]
    scores = [line.split()[0] for line in outs[0].splitlines()[1:]]
    assert float(scores[0]) < 1 and float(scores[1]) == 1


def test_a_query_in_a_shard_named_from_here_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    with tarfile.open("s.tar", "w") as archive:
        archive.add("frames/f3.png", "f3.png")
    embed("s.tar", "index", "tiny.safetensors", progress=False)
    run(capsys, "search", "index", "s.tar::f3.png", "--html", "p.html")
    page = Path("p.html").read_text(encoding="utf-8")
    assert page.count("<img") == 2 and ">missing<" not in page


def test_a_folder_with_one_frame_is_left_out_by_name(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    alone, _ = run(capsys, "consistency", "frames", *METRIC)
    Path("single").mkdir()
    shutil.copy("frames/f1.png", "single/f1.png")
    out, err = run(capsys, "consistency", "frames", "single", *METRIC)
    assert out == alone and f"left out: {workdir}/single (one frame, and a video needs at least 2)" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("search", "nowhere", "frames/f1.png"), "'nowhere' is not an index"),
        (("search", "frames", "frames/f1.png"), "'frames' is not an index, it has no index.json"),
        (("search", "index", "none.png"), "'none.png' is neither a picture file nor a picture of this index"),
        (("search", "index", "frames/broken.png"), "'frames/broken.png' cannot be read as an image"),
        (("search", "index", "frames/f1.png", "--k", "-1"), "--k must be at least 1, got -1"),
        (("search", "index", "frames/f1.png", "--mask", "tall.png"), "got 24 x 32 for a picture of 32 x 24 pixels"),
        (("search", "index", "frames/f1.png", "--mask", "none.png"), "image not found: 'none.png'"),
        (("search", "index", "frames/f1.png", "--metric", "pocket"), "was made by"),
        (("search", "index", "frames/f1.png", "--html", "frames"), "'frames' is a folder; give the file to write"),
        (("search", "index", "frames/f1.png", "--exact-up-to", "-5"), "exact_up_to must be at least 0"),
        (("matrix", "index", "frames"), "'index' is an index, and an index stands alone"),
        (("matrix", "index", "--metric", "pocket"), "was made by"),
        (("matrix", "nothing"), "there is no file or folder 'nothing'"),
        (("matrix", "empty"), "'empty' holds no picture"),
        (("duplicates", "frames/broken.png", *METRIC), "no picture can be read"),
        (("duplicates", "index", "--threshold", "3"), "must lie in [0, 2], got 3"),
        (("diversity", "index", "--sample", "13"), "from 1 to 12 pictures, got 13"),
        (("diversity", "index", "--q", "-1"), "order q must be at least 0"),
        (("diversity", "index", "--resamples", "5"), "at least 100 resamples"),
        (("consistency", "frames/f1.png", *METRIC), "a video needs at least 2 frames"),
        (
            ("consistency", "nowhere", "--plot", "c.xyz"),
            "'c.xyz' has the ending .xyz, by which no picture can be written",
        ),
        (("matrix", "nowhere", "--png", "c.xyz"), "'c.xyz' has the ending .xyz, by which no picture can be written"),
        (("search", "nowhere", "a.png", "--sheet", "c.xyz"), "'c.xyz' has the ending .xyz, by which no picture can be"),
        (
            ("search", "nowhere", "a.png", "--sheet", "sheet"),
            "'sheet' has no ending, by which no picture can be written",
        ),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], index: str, words: tuple[str, ...], message: str
) -> None:
    Path("empty").mkdir()
    save_image(torch.ones(1, 3, 32, 24), "tall.png")
    _, err = run(capsys, *words, code=2)
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and message in last
