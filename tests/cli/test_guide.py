"""The command `guide` on a tiny random Stable Diffusion in a folder, on the CPU."""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import build

from dreamsim_guidance import load_image, save_image
from dreamsim_guidance.cli import main
from dreamsim_guidance.cli.guide import guide_recipe
from dreamsim_guidance.comparisons import sheet_run as guided_sheet
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.experiment import registry
from dreamsim_guidance.generation import named_models

ROOT = Path(__file__).parents[2]
SMALL = ("--metric", "pocket", "--steps", "3", "--size", "32", "--n", "2", "--prompt", "a cat", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build("sd").pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Pipelines and the metric are loaded for the first test that needs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "load", functools.cache(named_models.load))
        patch.setattr(guided_sheet, "DreamSim", functools.cache(guided_sheet.DreamSim))
        yield


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    reference = torch.zeros(1, 3, 40, 40)
    reference[:, 0, 10:30] = 0.9
    save_image(reference, "red.png")
    save_image(1 - reference, "cyan.png")
    return tmp_path


def guided(model: str, *words: str, code: int = 0) -> None:
    assert main(["guide", "--model", model, "--reference", "red.png", *SMALL, *words]) == code


def test_a_sheet_the_numbers_and_every_image_are_written(
    model: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guided(model, "--strength", "3", "--steps", "6")
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["role", "unguided", "guided"] and out[-1] == "guided/sheet.png"
    assert [line.split()[0] for line in out[1:4]] == ["distance", "rms", "1"]
    written = json.loads((workdir / "guided" / "distances.json").read_text())
    assert written["seeds"] == [0, 1]
    assert {name: row["role"] for name, row in written["distances"].items()} == {
        "distance": "guide",
        "rms": "held out",
        "1 - ssim": "held out",
    }
    for before, after in zip(
        written["each"]["distance"]["unguided"], written["each"]["distance"]["guided"], strict=True
    ):
        assert after < before
    for name in ("sheet", "log", "reference/0000", "unguided/0001", "guided/0001"):
        assert (workdir / "guided" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    steps = json.loads((workdir / "guided" / "log.json").read_text())["steps"]
    assert [len(step["distance"]) for step in steps] == [2] * len(steps) and all(step["guided"] for step in steps)


def test_the_unguided_row_is_what_the_pipeline_makes_of_these_seeds(model: str, workdir: Path) -> None:
    from diffusers import DiffusionPipeline

    guided(model, "--seed", "5", "--batch", "1")
    pipe = DiffusionPipeline.from_pretrained(model)
    expected = pipe(
        "a cat",
        height=32,
        width=32,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(6),
        output_type="pt",
    ).images
    written = load_image(workdir / "guided" / "unguided" / "0001.png")
    assert float((expected - written).abs().max()) <= 0.5 / 255 + 1e-6
    guided(model, "--seed", "5", "--batch", "2", "--to", "together")
    for name in ("unguided/0001.png", "guided/0001.png"):  # the size of a batch changes nothing
        assert (
            float((load_image(workdir / "guided" / name) - load_image(workdir / "together" / name)).abs().max())
            < 1.5 / 255
        )


def test_strength_zero_changes_nothing(model: str, workdir: Path) -> None:
    guided(model, "--strength", "0")
    for name in ("0000.png", "0001.png"):
        unguided_file, guided_file = (workdir / "guided" / row / name for row in ("unguided", "guided"))
        assert unguided_file.read_bytes() == guided_file.read_bytes()


@pytest.mark.parametrize(
    ("stop", "code"), [(KeyboardInterrupt(), 130), (OSError(errno.ENOSPC, "No space left on device"), 2)]
)
def test_an_interrupted_run_samples_only_what_is_missing(
    model: str,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: BaseException,
    code: int,
) -> None:
    sample = guided_sheet.Sampler.sample

    def interrupted(*arguments: Any, **options: Any) -> Any:
        if arguments[3] is None:  # the method; the guided row is sampled first
            raise stop
        return sample(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(guided_sheet.Sampler, "sample", interrupted)
        guided(model, code=code)
    assert "go on with: dreamsim-guidance run guided --resume" in capsys.readouterr().err
    before = (workdir / "guided" / "guided" / "0000.png").stat().st_mtime_ns
    assert main(["run", "guided", "--resume"]) == 0
    assert (workdir / "guided" / "guided" / "0000.png").stat().st_mtime_ns == before
    assert (workdir / "guided" / "sheet.png").is_file()


def test_only_earlier_results_of_the_command_are_replaced(
    model: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guided(model)
    first = (workdir / "guided" / "guided" / "0000.png").read_bytes()
    guided(model, "--seed", "3")
    assert (workdir / "guided" / "guided" / "0000.png").read_bytes() != first
    (workdir / "mine").mkdir()
    (workdir / "mine" / "letter.txt").write_text("dear")
    guided(model, "--to", "mine", code=2)
    assert "neither empty nor a run folder" in capsys.readouterr().err
    assert [path.name for path in (workdir / "mine").iterdir()] == ["letter.txt"]


def test_all_options_work_together(model: str, workdir: Path) -> None:
    mask = torch.zeros(1, 3, 32, 32)
    mask[..., :16] = 1
    save_image(mask, "mask.png")
    words = ["--reference", "red.png", "cyan.png", "--reduction", "min", "--mask", "mask.png", "--init", "cyan.png"]
    words += ["--init-strength", "0.7", "--negative-prompt", "a boat", "--cfg", "3", "--window", "0", "0.9"]
    words += ["--every", "2", "--until", "0.01", "--views", "2", "--checkpointing", "--option", "cap=0.2", "rule=raw"]
    guided(model, *words, "--scheduler", "DDIMScheduler", "--steps", "8")
    written = json.loads((workdir / "guided" / "distances.json").read_text())
    assert written["method"] == "MPGD(strength=0.03, rule='raw', cap=0.2)"
    steps = json.loads((workdir / "guided" / "log.json").read_text())["steps"]
    assert [step["index"] for step in steps] == [0, 2, 4]


@pytest.mark.parametrize("method", ["dps", "lgd", "freedom", "universal", "dsg", "tfg", "flowchef", "mmps"])
def test_every_method_can_be_chosen(model: str, workdir: Path, method: str) -> None:
    words = ("--scheduler", "DDIMScheduler", "--method", method)
    guided(model, *words, "--n", "1", "--steps", "2")
    written = json.loads((workdir / "guided" / "distances.json").read_text())
    assert written["skipped"] == 0
    assert written["each"]["distance"]["guided"] != written["each"]["distance"]["unguided"]


def test_the_tiny_autoencoder_may_come_from_a_folder(model: str, workdir: Path) -> None:
    from diffusers import AutoencoderTiny

    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
        latent_channels=4,
    )
    tiny.save_pretrained(workdir / "taesd")
    guided(model, "--vae", "taesd")
    steps = json.loads((workdir / "guided" / "log.json").read_text())["steps"]
    guided(model, "--to", "full")
    full = json.loads((workdir / "full" / "log.json").read_text())["steps"]
    assert steps[0]["distance"] != full[0]["distance"]  # another decoder makes another picture


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "a model is needed: pocket (ships with the package), sd15, sdxl, sdxl-turbo, sd35, flux"),
        (("--model", "sd16"), "unknown model 'sd16' (did you mean 'sd15'?)"),
        (("--model", "sd15"), "a reference is needed: --reference PICTURE"),
        (("--model", "pocket", "--reference", "none.png"), "image not found: 'none.png'"),
        (("--model", "pocket", "--method", "mpdg"), "unknown method 'mpdg' (did you mean 'mpgd'?)"),
        (("--model", "pocket", "--window", "0.8", "0.2"), "window must be two shares of the run in order"),
        (("--model", "pocket", "--n", "0"), "n must be at least 1, got 0"),
        (("--model", "pocket", "--strength", "-1"), "strength must be a number of at least 0"),
        (("--model", "pocket", "--until", "nan"), "until must be a finite number, got nan"),
        (("--model", "pocket", "--eta", "-1"), "eta must be a number of at least 0, got -1"),
        (("--model", ".", "--reference", "red.png"), "has no model_index.json"),
        (("--model", "./red.png", "--reference", "red.png"), "is a file; give the folder of a pipeline"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_folder(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert main(["guide", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and message in err
    assert not (workdir / "guided").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--option", "capp=1"), "'capp=1' is no option of mpgd (did you mean 'cap'?); it has: cap, rule, strength"),
        (("--scheduler", "DDIMSheduler"), "diffusers has no scheduler 'DDIMSheduler' (did you mean"),
        (("--method", "dsg"), "DSG turns the noise that a sampler adds, and this one adds none"),
        (
            ("--method", "dsg", "--scheduler", "DDIMScheduler", "--eta", "0"),
            "DSG turns the noise that a sampler adds, and this one adds none",
        ),
        (("--option", "cap=abc"), "mpgd cannot have cap=abc: MPGD: cap must be a number, got 'abc'"),
        (
            ("--init", "cyan.png", "--init-strength", "0.05", "--steps", "10"),
            "init_strength 0.05 of 10 steps is no step; at least 0.1 is needed",
        ),
    ],
)
def test_what_a_model_cannot_do_is_an_error_before_anything_is_sampled(
    model: str, workdir: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str, unchecked: None
) -> None:
    guided(model, *words, code=2)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (workdir / "guided" / "unguided").exists()


@pytest.mark.parametrize("words", [("--model", "sd15"), ("--model", "owner/name")])
def test_a_model_that_cannot_be_reached_is_an_error_at_once(workdir: Path, words: tuple[str, ...]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(workdir / "empty"), "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "dreamsim_guidance", "guide", *words, "--reference", "red.png"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert process.returncode == 2 and process.stdout == ""
    assert "the Hub cannot be reached" in process.stderr and "--local-dir FOLDER" in process.stderr
    assert time.perf_counter() - start < 30  # it imports neither torch nor diffusers
    assert not (workdir / "guided").exists()


def test_the_folder_shows_and_copies_the_recipe_that_was_run(
    model: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guided(model, "--strength", "0.5", "--window", "0", "0.5", "--option", "cap=0.2", "rule=raw", "--n", "1")
    config = registry.load("guided").config
    assert (config.strength, config.window, config.option) == (0.5, (0.0, 0.5), ("cap=0.2", "rule=raw"))
    assert config.reference == ((workdir / "red.png").absolute(),)
    capsys.readouterr()
    assert main(["show", "guided"]) == 0
    out = capsys.readouterr().out
    assert "@recipe\ndef guide() -> GuidedSheet:" in out and "strength=0.5," in out
    assert main(["copy", "guided", "--to", "mine.py"]) == 0
    assert registry.load("mine.py").config == config


def test_every_option_of_the_command_survives_the_recipe_file(workdir: Path) -> None:
    sheet = GuidedSheet(
        model="pocket",
        reference=(Path("red.png"), Path("cyan.png")),
        prompt='a "red" star\\',
        judges=("lpips",),
        size=(32,),
        until=0.125,
        taesd=True,
    )
    recipe = guide_recipe(sheet)
    Path("mine.py").write_text(recipe.source, encoding="utf-8")
    absolute = tuple(path.absolute() for path in sheet.reference)
    assert registry.load("mine.py").config == replace(sheet, reference=absolute)
