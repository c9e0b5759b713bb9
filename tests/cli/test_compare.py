import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import tiny_branches

from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.cli.compare import distances, find_pairs, read_pairs


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: DreamSim) -> Path:
    """Two folders of random pictures of several sizes, and a model file."""
    monkeypatch.chdir(tmp_path)
    for folder, names in {"a": "xyz", "b": "yzw"}.items():
        for i, name in enumerate(names):
            save_image(torch.rand(1, 3, 20 + 4 * i, 24), tmp_path / folder / f"{name}.png")
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    metric.save(tmp_path / "tiny.safetensors", source="random weights of a test", licence="none")
    return tmp_path


def read(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert main(["compare", *words, "--metric", "tiny.safetensors"]) == code
    out, err = capsys.readouterr()
    return out, err


def test_two_files_give_one_number(capsys: pytest.CaptureFixture[str], metric: DreamSim) -> None:
    out, _ = read(capsys, "a/x.png", "a/y.png")
    expected = metric(load_image("a/x.png"), load_image("a/y.png"))
    assert float(out) == pytest.approx(float(expected), abs=2e-6)
    assert float(read(capsys, "a/x.png", "a/x.png")[0]) == 0


def test_one_reference_against_several(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "a/x.png", "a/y.png", "b", "b/w.png")
    assert [line.split()[1] for line in out.splitlines()] == ["a/y.png", "b/w.png", "b/y.png", "b/z.png", "b/w.png"]


def test_patterns_are_expanded(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "a/[xy].png", "b/*.png")
    assert [line.split()[1] for line in out.splitlines()] == ["a/y.png", "b/w.png", "b/y.png", "b/z.png"]


def test_folders_are_matched_by_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = read(capsys, "a", "b")
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert [name for _, name in lines] == ["y.png", "z.png", "mean of 2"]
    assert float(lines[2][0]) == pytest.approx((float(lines[0][0]) + float(lines[1][0])) / 2, abs=2e-6)
    assert "only in a: x.png" in err and "only in b: w.png" in err


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = read(capsys, "a", "b", "--json")
    result = json.loads(out)
    assert result["metric"] == "tiny.safetensors" and result["unmatched"] == {"a": ["x.png"], "b": ["w.png"]}
    assert [(pair["a"], pair["b"]) for pair in result["pairs"]] == [("a/y.png", "b/y.png"), ("a/z.png", "b/z.png")]
    assert all(0 < pair["distance"] <= 2 for pair in result["pairs"])


def test_pairs_come_from_a_file(capsys: pytest.CaptureFixture[str], workdir: Path) -> None:
    (workdir / "lists").mkdir()
    (workdir / "lists" / "pairs.csv").write_text(
        "original,copy\n../a/x.png, ../b/y.png\n\n../a/x.png,../b/w.png,note\n"
    )
    out, _ = read(capsys, "--pairs", "lists/pairs.csv")
    assert len(out.splitlines()) == 3 and "mean of 2" in out
    first = float(out.split()[0])
    assert first == pytest.approx(float(read(capsys, "a/x.png", "b/y.png")[0]), abs=2e-6)


def test_every_image_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    embed = DreamSim.directions
    monkeypatch.setattr(
        DreamSim, "directions", lambda self, x, *rest: (batches.append(len(x)), embed(self, x, *rest))[1]
    )
    x, y, z = (Path(f"a/{name}.png") for name in "xyz")
    values = distances([(x, y), (x, z), (y, z), (y, x)], "tiny.safetensors")
    assert batches == [3]  # one batch, although the sizes differ
    assert values[0] == values[3] and len(set(values)) == 3


def test_patch_models_and_branches_of_several_sizes_compare_too() -> None:
    x, y = Path("a/x.png"), Path("a/y.png")
    first, second, _ = tiny_branches()
    patches = DreamSim([replace(first, feature="cls_patch")], pretrained=False)
    mixed = DreamSim([first, replace(second, image_size=16)], pretrained=False)
    for name, model in {"patches": patches, "mixed": mixed}.items():
        model.save(f"{name}.safetensors", source="test", licence="none")
        expected = float(model(load_image(x), load_image(y)))
        assert distances([(x, y)], f"{name}.safetensors") == [pytest.approx(expected, abs=1e-6)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a/x.png",), "at least two images are needed, got 1: 'a/x.png'"),
        (("a/x.png", "a/none.png"), "image not found: 'a/none.png'"),
        (("a/x.png", "none/*.png"), "no file matches 'none/*.png'"),
        (("a/x.png", "a/notes.txt"), "'a/notes.txt' cannot be read as an image"),
        (("a/x.png", ""), "the path of an image is empty"),
        (("", "a/x.png"), "the path of an image is empty"),
        (("a/x.png", " "), "the path of an image is empty"),
        (("none", "a/x.png"), "image not found: 'none'"),
        (("a/x.png", "*.jpg"), "no file matches '*.jpg'"),
        (("--pairs", "folder.csv"), "image not found: 'a' is a folder"),
        (("--pairs", "empty_cell.csv"), "'empty_cell.csv', line 1: two paths are needed, got 'a/x.png,'"),
        (("a", "b/w.png"), "the first of several must be the reference, a file; 'a' is a folder"),
        (("a", "empty"), "no pictures in 'empty'"),
        (("a", "other"), "have no file name in common; use --pairs"),
        ((), "give images (files, folders, patterns) or --pairs FILE.csv"),
        (("a/x.png", "a/y.png", "--pairs", "p.csv"), "give images (files, folders, patterns) or --pairs FILE.csv"),
        (("--pairs", "none.csv"), "pairs not found: 'none.csv'"),
        (("--pairs", "short.csv"), "'short.csv', line 2: two paths are needed, got 'a/x.png'"),
        (("--pairs", "missing.csv"), "image not found: 'a/q.png'"),
        (("--pairs", "header.csv"), "holds no pairs"),
        (("--pairs", "a/x.png"), "is not a text file"),
        (("a/x.png", "a/y.png", "--jsn"), "unknown options: --jsn"),
    ],
)
def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], workdir: Path, words: tuple[str, ...], message: str
) -> None:
    (workdir / "empty").mkdir()
    (workdir / "other").mkdir()
    save_image(torch.rand(1, 3, 20, 20), workdir / "other" / "o.png")
    (workdir / "short.csv").write_text("a/x.png,a/y.png\na/x.png\n")
    (workdir / "folder.csv").write_text("a/x.png,a\n")
    (workdir / "empty_cell.csv").write_text("a/x.png,\n")
    (workdir / "missing.csv").write_text("a/x.png,a/q.png\n")
    (workdir / "header.csv").write_text("one,other\n")
    out, err = read(capsys, *words, code=2)
    assert out == "" and message in err and err.count("\n") == 1


def test_unknown_metric_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "a/x.png", "a/y.png", "--metric", "ensemble_v2"]) == 2
    assert "unknown variant 'ensemble_v2'; known: clip_vitb32" in capsys.readouterr().err


def test_without_the_published_weights_the_error_suggests_the_pocket_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("ensemble.zip could not be downloaded.")

    monkeypatch.setattr("dreamsim_guidance.checkpoints.official.load_official", offline)
    assert main(["compare", "a/x.png", "a/y.png"]) == 2
    assert "could not be downloaded. Or use --metric pocket" in capsys.readouterr().err


def test_labels_name_what_differs(workdir: Path) -> None:
    assert find_pairs(["a/x.png", "a/y.png"]).labels == ["a/y.png"]
    (workdir / "p.csv").write_text("a/x.png,b/y.png\n")
    assert read_pairs(workdir / "p.csv").labels == [f"{workdir / 'a/x.png'}  {workdir / 'b/y.png'}"]
