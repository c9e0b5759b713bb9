"""Sheets of guided samples, the comparison of methods, the sweep of strengths, and the measures that they report."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dreamsim_guidance.cli import main
from dreamsim_guidance.comparisons import method_comparison_run, strength_sweep_run
from dreamsim_guidance.comparisons import sheet_run as guided_sheet
from dreamsim_guidance.comparisons.guided_cells import GuidedCell, diversity, guided_cell, held_out_scenes
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.comparisons.strength_sweep import StrengthSweep
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import load, recipes
from dreamsim_guidance.generation import named_models
from dreamsim_guidance.generation.sampling import Sampler, log_of, merged, method_of
from dreamsim_guidance.guidance import MPGD, TFG, Entry, FreeDoM, Log
from dreamsim_guidance.guidance.methods import METHODS
from dreamsim_guidance.preprocess import load_image

HUB = {"guide-sd15": "sd15", "guide-sdxl": "sdxl", "guide-sdxl-turbo": "sdxl-turbo", "guide-sd35": "sd35"}
HUB |= {"guide-flux": "flux"}


@pytest.fixture(scope="module", autouse=True)
def load_each_model_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named_models, "load", functools.cache(named_models.load))
        for module in (guided_sheet, method_comparison_run, strength_sweep_run):
            patch.setattr(module, "DreamSim", functools.cache(module.DreamSim))
        yield


def test_every_family_has_a_recipe_with_its_usual_settings() -> None:
    assert {"guide-pocket", "strength-sweep", "guide-methods", *HUB} <= set(recipes())
    for name, model in HUB.items():
        config = load(name).config
        assert (config.model, config.method, config.taesd) == (model, "mpgd", True)
    settings = {name: (model.steps, model.cfg, model.size, model.tiny) for name, model in named_models.MODELS.items()}
    assert settings["sd15"] == (50, 7.5, 512, "madebyollin/taesd")
    assert settings["sdxl-turbo"] == (4, 0.0, 512, "madebyollin/taesdxl")
    assert settings["sd35"] == (40, 4.5, 1024, "madebyollin/taesd3")
    assert settings["flux"] == (50, 3.5, 1024, "madebyollin/taef1")


def test_the_pocket_sheet_takes_a_scene_that_no_model_was_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "guide-pocket", "n=2", "steps=6", "--folder", str(tmp_path / "run")]) == 0
    distances = json.loads(capsys.readouterr().out)["distances"]
    assert distances["distance"]["guided"] < distances["distance"]["unguided"]
    assert {"distance", "rms", "1 - ssim", "1 - factors"} == set(distances)
    reference = load_image(tmp_path / "run" / "reference" / "0000.png")
    assert float((reference - guided_sheet.pocket_reference(0)).abs().max()) <= 0.5 / 255 + 1e-6
    assert load_image(tmp_path / "run" / "guided" / "0001.png").shape == (1, 3, 32, 32)


def test_a_prompt_selects_the_pocket_model_that_reads_prompts(tmp_path: Path) -> None:
    config = override(GuidedSheet(model="pocket"), ["prompt=two red stars", "n=1", "steps=3"])
    config.run(tmp_path)
    assert load_image(tmp_path / "guided" / "0000.png").shape == (1, 3, 64, 64)


def test_the_comparison_of_methods_is_resumed_without_repeating_finished_cells(tmp_path: Path) -> None:
    config = load("guide-methods-tiny").config
    rows = config.run(tmp_path)["rows"]
    assert [row["method"] for row in rows] == ["unguided", "mpgd", "unguided, eta 1", "dsg"]
    assert rows[1]["distance"] < rows[0]["distance"] and rows[0]["frechet / unguided"] == 1
    table = (tmp_path / "table.md").read_text()
    assert " ".join(table.split()).startswith(
        "| method | distance | rms | 1 - ssim | factors | frechet | diversity | seconds |"
    )
    assert table.count("\n") == 6
    (tmp_path / "cells" / "mpgd" / "001.safetensors").unlink()
    finished = tmp_path / "cells" / "mpgd" / "000.safetensors"
    modified = finished.stat().st_mtime_ns
    resumed = config.run(tmp_path)["rows"]
    assert finished.stat().st_mtime_ns == modified
    assert [row["distance"] for row in resumed] == [row["distance"] for row in rows]


def test_the_sweep_of_strengths_ends_with_rows_and_two_pictures(tmp_path: Path) -> None:
    results = load("strength-sweep-tiny").config.run(tmp_path)
    unguided, guided = results["rows"]
    assert (unguided["strength"], guided["strength"]) == (0.0, 3.0)
    assert guided["distance"] < unguided["distance"]
    assert all(0 <= row["fidelity"] <= 1 and row["diversity"] > 0 for row in results["rows"])
    for name in ("sweep.png", "samples.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_condition_may_have_a_strength_and_options() -> None:
    config = GuideMethods(methods=("mpgd:3", "mpgd:cap=0.1:rule=raw", "tfg:0.5:rho=0"))
    methods = {name: method for name, method, _ in method_comparison_run.conditions(config)}
    assert methods["mpgd:3"] == MPGD(strength=3.0)
    assert methods["mpgd:cap=0.1:rule=raw"] == MPGD(cap=0.1, rule="raw")
    assert methods["tfg:0.5:rho=0"] == TFG(strength=0.5, rho=0)


def test_every_method_of_the_table_can_be_made_by_its_name() -> None:
    assert len(METHODS) == 9
    for name, kind in METHODS.items():
        assert type(method_of(name)).__name__ == kind


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (GuideMethods, {"methods": ("mpgd:x",)}, "'mpgd:x' is not name:strength:option=value"),
        (GuideMethods, {"methods": ("mpdg",)}, "unknown method 'mpdg'"),
        (GuideMethods, {"methods": ("dps", "dps")}, "every method once"),
        (GuideMethods, {"references": 0}, "references must be at least 1, got 0"),
        (StrengthSweep, {"strengths": (-1.0,)}, "strengths must be numbers of at least 0"),
        (StrengthSweep, {"model": "sd15"}, "needs prompts and references, one for each"),
        (StrengthSweep, {"model": "pocket-pixels"}, "a sweep needs a model that takes words"),
        (StrengthSweep, {"prompts": ("a cat",)}, "one reference for each prompt is needed, got 1 and 0"),
        (GuidedSheet, {"model": "pocket", "prompt": "x", "size": (1, 2, 3)}, "size is one side or height and width"),
        (GuidedSheet, {"model": "pocket-pixels", "prompt": "a cat"}, "DDIMPipeline takes no prompt"),
        (GuidedSheet, {"model": "pocket-pixels", "taesd": True}, "no tiny autoencoder is known for DDIMPipeline"),
        (GuidedSheet, {"model": "pocket-pixels", "size": (64,)}, "DDIMPipeline has no height to choose"),
        (GuidedSheet, {"model": "pocket-pixels", "init": Path("init.png")}, "no image-to-image pipeline goes with"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    tmp_path: Path, kind: type, fields: dict[str, object], message: str
) -> None:
    from dreamsim_guidance.preprocess import save_image

    if "init" in fields:
        fields = {**fields, "init": tmp_path / "init.png"}
        save_image(torch.zeros(1, 3, 32, 32), tmp_path / "init.png")
    with pytest.raises(ValueError, match=message):
        kind(**fields).run(tmp_path)


def test_diversity_is_the_mean_over_pairs() -> None:
    features = torch.randn(5, 7, dtype=torch.float64)
    directions = torch.nn.functional.normalize(features, dim=1)
    pairs = [1 - float(directions[i] @ directions[j]) for i in range(5) for j in range(5) if i != j]
    assert diversity(features) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert diversity(features[:1].expand(4, -1)) == pytest.approx(0, abs=1e-12)


def test_held_out_scenes_are_those_of_the_test_split() -> None:
    scenes, pictures = held_out_scenes(2, 16, first=5)
    assert scenes == [pocket_scene(5, "test"), pocket_scene(6, "test")] and pictures.shape == (2, 3, 16, 16)


def test_judges_give_zero_for_equal_pictures_and_ignore_what_is_masked_out() -> None:
    image = torch.rand(1, 3, 24, 24)
    left = torch.zeros(1, 1, 24, 24)
    left[..., :12] = 1
    other = image.clone()
    other[..., 12:] = torch.rand(1, 3, 24, 12)
    for name, judge in judges([image], "mean", None, (), False, "cpu").items():
        assert float(judge(image)) == pytest.approx(0, abs=1e-6), name
        assert float(judge(other)) > 0.01, name
    assert float(judges([image], "mean", left, (), False, "cpu")["rms"](other)) == pytest.approx(0, abs=1e-6)


def test_judges_of_two_references_take_the_mean_or_the_smaller_distance() -> None:
    images, first, second = torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 20, 20)

    def rms(references: list[torch.Tensor], reduction: str) -> torch.Tensor:
        return judges(references, reduction, None, (), False, "cpu")["rms"](images)

    single = torch.stack([rms([first], "mean"), rms([second], "mean")])
    assert torch.allclose(rms([first, second], "mean"), single.mean(0))
    assert torch.allclose(rms([first, second], "min"), single.amin(0))


def test_logs_of_batches_are_merged_and_read_back() -> None:
    def log(distance: list[float]) -> Log:
        entry = Entry(0, 9.0, 0.5, True, distance, distance, distance, 1, 0.25, {"rms": distance})
        return Log([entry], final={"distance": distance, "rms": distance})

    whole = merged([log_of(log([0.1, 0.2]).to_dict()), log([0.3])])
    assert whole.entries[0].distance == [0.1, 0.2, 0.3] and whole.entries[0].judges == {"rms": [0.1, 0.2, 0.3]}
    assert whole.final["distance"] == [0.1, 0.2, 0.3] and whole.skipped == 2


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MPGD, {"strength": "5"}, "MPGD: strength must be a number, got '5'"),
        (MPGD, {"strength": None}, "MPGD: strength must be a number, got None"),
        (MPGD, {"cap": "abc"}, "MPGD: cap must be a number, got 'abc'"),
        (TFG, {"iterations": True}, "TFG: iterations must be a number, got True"),
        (FreeDoM, {"recurrence_window": 5}, "recurrence_window must be 2 numbers such as"),
    ],
)
def test_a_method_refuses_a_field_that_is_no_number(
    kind: type, values: dict[str, object], message: str, unchecked: None
) -> None:
    with pytest.raises(TypeError, match=message):
        kind(**values)


def test_the_cap_of_tfg_may_be_none() -> None:
    assert TFG(cap=None).cap is None


def test_a_log_with_nan_is_saved_as_json_and_read_back(tmp_path: Path) -> None:
    values = [float("nan"), 0.5]
    entry = Entry(0, 9.0, 0.5, True, values, values, values, 1, 0.25, {"rms": values})
    saved = Log([entry], final={"distance": values, "rms": values})
    saved.save(tmp_path / "log.json")
    loaded = log_of(json.loads((tmp_path / "log.json").read_text()))
    assert repr(loaded) == repr(saved)  # compared as text, because nan is not equal to itself
    assert loaded.summary() == "distance nan; rms nan; 1 of 2 gradients were not finite and left out"


SAMPLED = [("DDIMScheduler", "DDIMPipeline"), ("DDPMScheduler", "DDPMPipeline")]
SAMPLED += [("DPMSolverMultistepScheduler", "DDPMPipeline"), ("LCMScheduler", "DDPMPipeline")]


@pytest.mark.parametrize(("scheduler", "kind"), SAMPLED)
def test_the_pixel_model_samples_with_schedulers_that_do_not_scale_their_input(scheduler: str, kind: str) -> None:
    pipe = named_models.load(named_models.find("pocket"), "cpu", scheduler=scheduler)
    assert (type(pipe).__name__, type(pipe.scheduler).__name__) == (kind, scheduler)
    sampler = Sampler(pipe, steps=20)
    images, _ = sampler.sample([0, 1, 2, 3], lambda x: x.mean((1, 2, 3)), None)
    difference = (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2
    assert float(difference) < 0.08  # pictures with areas of one colour; neighbours in noise differ by 0.33
    assert float(images.std()) > 0.1


@pytest.mark.parametrize(
    ("scheduler", "reason"),
    [
        ("EulerAncestralDiscreteScheduler", "needs scaled inputs"),
        ("HeunDiscreteScheduler", "takes no generator"),
        ("EulerDiscreteScheduler", "needs scaled inputs"),
        ("FlowMatchEulerDiscreteScheduler", "is made for networks of another kind"),
    ],
)
def test_the_pixel_model_refuses_schedulers_that_its_pipeline_would_misuse(scheduler: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"{scheduler} {reason}, for which DDIMPipeline.*choose DDIMScheduler"):
        named_models.load(named_models.find("pocket"), "cpu", scheduler=scheduler)
    assert named_models.load(named_models.find("pocket", "a star"), "cpu", scheduler=scheduler) is not None


def test_a_stored_cell_is_read_and_not_sampled_again(tmp_path: Path) -> None:
    class UnusedPipeline:
        def __getattr__(self, name: str) -> object:
            raise AssertionError("the pipeline was used")

    from safetensors.torch import save_file

    values = {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "seconds": torch.tensor(2.0)}
    save_file({**values, "distance": torch.tensor([0.1, 0.2])}, tmp_path / "0.safetensors")
    start = time.perf_counter()
    cell = guided_cell(
        tmp_path / "0.safetensors", Sampler(UnusedPipeline()), [0, 1], lambda x: x.mean((1, 2, 3)), None, {}, 2
    )
    assert isinstance(cell, GuidedCell) and cell.seconds == 2.0 and time.perf_counter() - start < 5
    assert cell.distances["distance"].tolist() == pytest.approx([0.1, 0.2])
