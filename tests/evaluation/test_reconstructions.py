import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study.reconstructions import METHODS, votes, write_csv, write_folders

from dreamsim_guidance import DreamSim, load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.data.judgments import Judgments
from dreamsim_guidance.data.reconstructions import find_reconstructions
from dreamsim_guidance.evaluation.metrics.named_metrics import file_metric
from dreamsim_guidance.evaluation.preferences import Preferences, read_preferences, standings
from dreamsim_guidance.evaluation.reconstructions import NO_VOTES, compare_reconstructions
from dreamsim_guidance.evaluation.samples.contact_sheet import some
from dreamsim_guidance.evaluation.statistics.identification import two_way_identification
from dreamsim_guidance.study import make_study, read_study


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path, 6, size=(32, 32))
    return tmp_path


@pytest.fixture
def voted(workdir: Path) -> Path:
    """Three people who agree: coarse before grainy before washed."""
    study = make_study("targets", METHODS, "study", participants=3, progress=False).study
    files = [write_csv(workdir / f"{p}.csv", study, p, f"s{p}", votes(study, p)) for p in (1, 2, 3)]
    read_study("study", files, "votes")
    return workdir / "votes"


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    exit_code = main(["evaluate", "reconstructions", "targets", *words, "--cache", "cache"])
    out, err = capsys.readouterr()
    assert exit_code == code, err
    return out, err


def test_cells_are_mean_distances_and_paired_differences(workdir: Path, metric: DreamSim) -> None:
    comparison = compare_reconstructions(
        find_reconstructions("targets", METHODS), {"tiny": file_metric(metric, "tiny", cache=False)}, progress=False
    )
    cells = comparison.cells["tiny"]
    for name in METHODS:
        expected = [
            float(metric(load_image(file), load_image(next((workdir / name).glob(f"{file.stem}.*")))))
            for file in sorted((workdir / "targets").iterdir())
        ]
        np.testing.assert_allclose(cells[name].distances, expected, atol=1e-4)  # the files are squashed in 8 bits
        assert cells[name].distance.value == pytest.approx(np.mean(cells[name].distances))
        assert cells[name].distance.low <= cells[name].distance.value <= cells[name].distance.high
    assert cells["coarse"].difference is None
    difference = cells["washed"].difference
    assert difference is not None
    assert difference.value == pytest.approx(cells["washed"].distance.value - cells["coarse"].distance.value)
    assert difference.count == 6


def test_a_paired_difference_is_more_precise_than_two_intervals(workdir: Path) -> None:
    class Difficult:
        """Some references are much harder than others, and washed is always worse by a little."""

        name = "difficult"

        def distances(self, pairs: list[tuple[Path, Path]], progress: bool = True) -> np.ndarray:
            return np.array(
                [int(a.stem[-1]) + 0.1 * ("washed" in str(b)) + 0.01 * hash(b.stem[-1]) % 1 for a, b in pairs]
            )

    cells = compare_reconstructions(find_reconstructions("targets", METHODS), {"m": Difficult()}).cells["m"]
    coarse, washed = cells["coarse"].distance, cells["washed"].distance
    assert coarse.low < washed.value < coarse.high
    assert cells["washed"].difference is not None and cells["washed"].difference.low > 0.09


def test_identification_is_that_of_brain_decoding(workdir: Path, metric: DreamSim) -> None:
    for i in range(6):  # reconstructions that are sometimes nearer to another picture
        mixed = load_image(f"targets/scene {i}.png") + 1.2 * load_image(f"targets/scene {(i + 1) % 6}.png")
        save_image(mixed / 2.2, f"grainy/scene {i}.png")
    embedding = file_metric(metric, "tiny", cache=False)
    comparison = compare_reconstructions(
        find_reconstructions("targets", METHODS), {"tiny": embedding}, two_way=["tiny"], progress=False
    )
    assert hasattr(embedding, "directions")
    real = embedding.directions([workdir / "targets" / f"scene {i}.png" for i in range(6)], False)
    reconstructed = embedding.directions([workdir / "grainy" / f"scene {i}.png" for i in range(6)], False)
    expected = two_way_identification(torch.from_numpy(reconstructed), torch.from_numpy(real))
    share = comparison.cells["tiny"]["grainy"].two_way
    assert share is not None and share.value == pytest.approx(float(expected.mean())) and share.value < 1


def test_without_votes_nothing_is_said_about_people(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *METHODS, "--metric", "pocket", "mse", "--html", "page.html", "--to", "results")
    assert out.splitlines()[-1] == NO_VOTES == "no votes given: nothing here says what people prefer."
    for text in (out, Path("page.html").read_text(), Path("results/reconstructions.json").read_text()):
        assert NO_VOTES in text
        for word in ("win rate", "Bradley", "agreement with", "votes on"):
            assert word not in text
    assert json.loads(Path("results/reconstructions.json").read_text())["people"] is None


def test_the_table_has_every_metric_and_method(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, *METHODS, "--metric", "pocket", "mse")
    lines = out.splitlines()
    assert lines[0].split() == list(METHODS)
    assert [line.split("  ")[0] or line.split("  ")[1] for line in lines[1:6]] == [
        "pocket", "minus the first", "two-way identification", "mse", "minus the first",
    ]  # fmt: skip
    result = json.loads(run(capsys, *METHODS, "--metric", "pocket", "mse", "--json")[0])
    assert result["references"] == [f"scene {i}" for i in range(6)] and result["methods"] == list(METHODS)
    cell = result["metrics"]["mse"]["grainy"]
    assert len(cell["distances"]) == 6 and cell["two_way_identification"] is None
    assert f"{cell['distance']['value']:.4f} [{cell['distance']['low']:.4f}" in lines[4]
    assert result["metrics"]["pocket"]["washed"]["two_way_identification"]["value"] >= 0.5


def test_votes_give_standings_and_each_metrics_agreement(voted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (*METHODS, "--metric", "pocket", "mse", "--votes", "votes")
    out, _ = run(capsys, *words, "--html", "page.html")
    assert "win rate" in out and "agreement with people" in out and NO_VOTES not in out
    assert out.splitlines()[-1] == "votes: 54 on 18 triplets of 6 references."
    assert "win rate" in Path("page.html").read_text()
    result = json.loads(run(capsys, *words, "--json")[0])
    people = result["people"]["methods"]
    assert [people[name]["win_rate"]["value"] for name in METHODS] == [1.0, 0.5, 0.0]
    strengths = [people[name]["strength"]["value"] for name in METHODS]
    assert strengths == sorted(strengths, reverse=True) and sum(strengths) == pytest.approx(0, abs=1e-9)
    assert people["washed"]["lead"]["high"] < 0 and people["coarse"]["lead"] is None
    assert people["coarse"]["votes"] == 36 and people["coarse"]["win_rate"]["clusters"] == 6
    agreement = result["people"]["agreement"]
    assert set(agreement["agreement"]) == {"pocket", "mse"} and agreement["ceiling"] == 1.0
    alone = main(["evaluate", "votes", "--metric", "mse", "--json"])
    assert alone == 0
    direct = json.loads(capsys.readouterr().out)["agreement"]["mse"]["fraction"]["value"]
    assert agreement["agreement"]["mse"]["fraction"]["value"] == pytest.approx(direct)


def simulated(strengths: list[float], references: int, people: int, spread: float, seed: int) -> Preferences:
    """Votes drawn from the Bradley-Terry model, with strengths that vary between references by `spread`."""
    random = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(len(strengths)) for j in range(i)]
    rows = [(g, i, j) for g in range(references) for i, j in pairs]
    s = np.array(strengths) + spread * random.standard_normal((references, len(strengths)))
    chance = np.array([1 / (1 + np.exp(s[g, j] - s[g, i])) for g, i, j in rows])
    wins = random.binomial(people, chance).astype(np.float64)
    reference, a, b = np.array(rows).T
    empty = ("",) * len(rows)
    judgments = Judgments((), reference, reference, reference, wins, people - wins, empty, empty)
    return Preferences(judgments, tuple("abcd"[: len(strengths)]), a, b)


def test_strengths_of_simulated_people_are_recovered() -> None:
    result = standings(simulated([0.9, 0.3, -0.2, -1.0], 150, 4, 0.0, seed=1), resamples=200)
    assert [row.strength.value for row in result.values()] == pytest.approx([0.9, 0.3, -0.2, -1.0], abs=0.15)
    for row, truth in zip(result.values(), [0.9, 0.3, -0.2, -1.0], strict=True):
        assert row.strength.low - 0.05 < truth < row.strength.high + 0.05
    lead = result["b"].lead
    assert lead is not None and lead.low < -0.6 < lead.high
    assert result["a"].votes == 150 * 3 * 4


def test_intervals_of_strengths_hold_for_votes_that_share_references() -> None:
    """Votes on one reference are correlated if references differ; resampling single votes would cover far less."""
    inside = 0
    for seed in range(80):
        # equal on average; the truth of the model's fit is 0 by symmetry, whatever the spread
        row = standings(simulated([0.0, 0.0], 25, 8, 1.0, seed), resamples=80, seed=seed)["a"].strength
        inside += row.low <= 0 <= row.high
    assert inside >= 70  # binomial of 80 at 95 %: 76 - 3 standard deviations of 1.95


def test_metrics_that_cannot_run_are_reported_and_the_others_run(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, *METHODS, "--metric", "mse", "ms-ssim")
    assert "ms-ssim did not run: ms-ssim needs pictures of at least" in err and "mse  " in out
    _, err = run(capsys, *METHODS, "--metric", "ms-ssim", code=2)
    assert "no metric could run (ms-ssim: ms-ssim needs pictures" in err
    _, err = run(capsys, *METHODS, "--metric", "nothing", code=2)
    assert "unknown metric 'nothing'; known: " in err


def test_incomplete_references_are_left_out_of_every_number(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("grainy/scene 2.png").unlink()
    out, err = run(capsys, *METHODS, "--metric", "mse")
    assert (
        "missing in grainy: scene 2" in err and "5 references that every method has (1 incomplete ones left out)" in out
    )
    result = json.loads(run(capsys, *METHODS, "--metric", "mse", "--json")[0])
    assert result["incomplete"] == ["scene 2"] and len(result["metrics"]["mse"]["coarse"]["distances"]) == 5


def test_one_method_is_enough_without_votes(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = run(capsys, "again=coarse", "--metric", "mse")
    assert out.split()[0] == "again" and "minus" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("coarse", "broken"), "1 of 18 pictures cannot be read: 'broken/scene 0.png'"),
        (("coarse", "none"), "'none' is not a folder"),
        (("coarse", "--columns", "0"), "columns must be at least 1"),
        (("coarse", "--votes", "none"), "judgments not found"),
        (("coarse", "--votes", "plain"), "lacks the column left_method"),
        (("coarse", "--votes", "same"), "holds votes on same or different"),
        (("x=coarse", "y=grainy", "--votes", "votes"), "the votes are on coarse, grainy, washed, not on x, y"),
        (("coarse", "few"), "no reference has been reconstructed by every method"),
        (("coarse", "--jsn"), "unknown options: --jsn"),
    ],
)
def test_bad_input_is_one_line(
    voted: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    for folder in ("broken", "plain", "same", "few"):
        Path(folder).mkdir()
    for i in range(6):
        Path(f"broken/scene {i}.png").write_bytes(Path(f"grainy/scene {i}.png").read_bytes()[: None if i else 500])
    Path("same/jnd_votes.csv").write_text("id\n")
    Path("plain/data.csv").write_text(
        "id,left_vote,right_vote,votes,ref_path,left_path,right_path,split\n0,1,0,6,a.png,a.png,a.png,test\n"
    )
    save_image(torch.rand(1, 3, 8, 8), "plain/a.png")
    save_image(torch.rand(1, 3, 8, 8), "few/scene 9.png")
    save_image(torch.rand(1, 3, 8, 8), "targets/scene 9.png")
    out, err = run(capsys, *words, "--metric", "mse", code=2)
    assert out == "" and message in err


def test_the_contact_sheet_shows_targets_and_each_methods_distance(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, *METHODS, "--metric", "mse", "--to", "results", "--columns", "3")
    assert sorted(file.name for file in Path("results").iterdir()) == [
        "contact_sheet.png", "reconstructions.html", "reconstructions.json",
    ]  # fmt: skip
    sheet = np.asarray(Image.open("results/contact_sheet.png"))
    cells = sheet[12 + 64, -(12 + 3 * 136) :]  # through the middle of the first row, from its first picture on
    target = np.asarray(Image.open("targets/scene 0.png").resize((128, 128), Image.Resampling.NEAREST))
    assert (cells[:128] == target[64]).all()
    assert sheet.shape[0] == 12 + 4 * 156
    for i in range(1, 4):  # below every method's row there is writing
        below = sheet[12 + i * 156 + 129 : 12 + i * 156 + 148, -(12 + 3 * 136) :]
        assert below.min() < 100
    assert (sheet[12 + 129 : 12 + 148, -(12 + 3 * 136) :] == 255).all()  # but not below the targets
    page = Path("results/reconstructions.html").read_text()
    assert "data:image/png;base64," in page and "http" not in page and "3 of 6 references" in page


def test_columns_are_spread_evenly() -> None:
    assert some(3, 8) == [0, 1, 2] and some(9, 3) == [0, 4, 8] and some(9, 1) == [0]


def test_a_set_called_reconstructions_can_still_be_evaluated(voted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voted.rename("reconstructions")
    assert len(read_preferences("reconstructions").judgments) == 18
    assert main(["evaluate", "./reconstructions", "--metric", "mse"]) == 0
    assert "fraction" in capsys.readouterr().out
