"""Sheets of guided samples, the comparison of methods, the sweep of strengths, and how they are measured."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dreamsim_guidance.cli import main
from dreamsim_guidance.comparisons import guided_models, method_comparison_run, strength_sweep_run
from dreamsim_guidance.comparisons import sheet_run as guided_sheet
from dreamsim_guidance.comparisons.guided_cells import GuidedCell, diversity, guided_cell, held_out_scenes
from dreamsim_guidance.comparisons.guided_judges import judges
from dreamsim_guidance.comparisons.guided_sampling import Sampler, log_of, merged, method_of
from dreamsim_guidance.comparisons.guided_sheet import GuidedSheet
from dreamsim_guidance.comparisons.method_comparison import GuideMethods
from dreamsim_guidance.comparisons.strength_sweep import StrengthSweep
from dreamsim_guidance.data.scenes.pocket_scenes import pocket_scene
from dreamsim_guidance.experiment.fields import override
from dreamsim_guidance.experiment.registry import load, recipes
from dreamsim_guidance.guidance import MPGD, TFG, Entry, FreeDoM, Log
from dreamsim_guidance.guidance.methods import METHODS
from dreamsim_guidance.preprocess import load_image

HUB = {"guide-sd15": "sd15", "guide-sdxl": "sdxl", "guide-sdxl-turbo": "sdxl-turbo", "guide-sd35": "sd35"}
HUB |= {"guide-flux": "flux"}


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guided_models, "load", functools.cache(guided_models.load))
        for module in (guided_sheet, method_comparison_run, strength_sweep_run):
            patch.setattr(module, "DreamSim", functools.cache(module.DreamSim))
        yield


def test_every_family_has_a_recipe_with_its_usual_settings() -> None:
    assert {"guide-pocket", "strength-sweep", "guide-methods", *HUB} <= set(recipes())
    for name, model in HUB.items():
        config = load(name).config
        assert (config.model, config.method, config.taesd) == (model, "mpgd", True)
    usual = {name: (model.steps, model.cfg, model.size, model.tiny) for name, model in guided_models.MODELS.items()}
    assert usual["sd15"] == (50, 7.5, 512, "madebyollin/taesd")
    assert usual["sdxl-turbo"] == (4, 0.0, 512, "madebyollin/taesdxl")
    assert usual["sd35"] == (40, 4.5, 1024, "madebyollin/taesd3")
    assert usual["flux"] == (50, 3.5, 1024, "madebyollin/taef1")


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


def test_with_a_prompt_the_pocket_model_is_the_one_that_reads_it(tmp_path: Path) -> None:
    config = override(GuidedSheet(model="pocket"), ["prompt=two red stars", "n=1", "steps=3"])
    config.run(tmp_path)
    assert load_image(tmp_path / "guided" / "0000.png").shape == (1, 3, 64, 64)


def test_the_comparison_of_methods_is_resumed_without_sampling_again(tmp_path: Path) -> None:
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
    before = finished.stat().st_mtime_ns
    again = config.run(tmp_path)["rows"]
    assert finished.stat().st_mtime_ns == before
    assert [row["distance"] for row in again] == [row["distance"] for row in rows]


def test_the_sweep_ends_with_a_curve_over_distance(tmp_path: Path) -> None:
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


def test_every_method_is_known_by_a_name() -> None:
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


def test_judges_find_no_distance_between_equal_pictures_and_obey_the_mask() -> None:
    image = torch.rand(1, 3, 24, 24)
    left = torch.zeros(1, 1, 24, 24)
    left[..., :12] = 1
    other = image.clone()
    other[..., 12:] = torch.rand(1, 3, 24, 12)
    for name, judge in judges([image], "mean", None, (), False, "cpu").items():
        assert float(judge(image)) == pytest.approx(0, abs=1e-6), name
        assert float(judge(other)) > 0.01, name
    assert float(judges([image], "mean", left, (), False, "cpu")["rms"](other)) == pytest.approx(0, abs=1e-6)


def test_judges_of_two_references_take_the_mean_or_the_nearest() -> None:
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
def test_a_field_of_a_method_that_is_no_number_is_an_error_at_once(
    kind: type, values: dict[str, object], message: str, unchecked: None
) -> None:
    with pytest.raises(TypeError, match=message):
        kind(**values)


def test_a_bound_may_be_none_where_a_method_says_so() -> None:
    assert TFG(cap=None).cap is None


def test_a_log_with_a_number_that_json_lacks_is_read_back(tmp_path: Path) -> None:
    bad = [float("nan"), 0.5]
    before = Log([Entry(0, 9.0, 0.5, True, bad, bad, bad, 1, 0.25, {"rms": bad})], final={"distance": bad, "rms": bad})
    before.save(tmp_path / "log.json")
    after = log_of(json.loads((tmp_path / "log.json").read_text()))
    assert repr(after) == repr(before)  # nan is not equal to itself
    assert after.summary() == "distance nan; rms nan; 1 of 2 gradients were not finite and left out"


SAMPLED = [("DDIMScheduler", "DDIMPipeline"), ("DDPMScheduler", "DDPMPipeline")]
SAMPLED += [("DPMSolverMultistepScheduler", "DDPMPipeline"), ("LCMScheduler", "DDPMPipeline")]


@pytest.mark.parametrize(("scheduler", "kind"), SAMPLED)
def test_the_pixel_model_samples_with_schedulers_that_scale_nothing(scheduler: str, kind: str) -> None:
    pipe = guided_models.load(guided_models.find("pocket"), "cpu", scheduler=scheduler)
    assert (type(pipe).__name__, type(pipe.scheduler).__name__) == (kind, scheduler)
    sampler = Sampler(pipe, steps=20)
    images, _ = sampler.sample([0, 1, 2, 3], lambda x: x.mean((1, 2, 3)), None)
    steps = (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean()) / 2
    assert float(steps) < 0.08  # areas of one colour: noise has 0.33 between neighbours
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
        guided_models.load(guided_models.find("pocket"), "cpu", scheduler=scheduler)
    assert guided_models.load(guided_models.find("pocket", "a star"), "cpu", scheduler=scheduler) is not None


def test_a_cell_that_is_stored_is_not_sampled(tmp_path: Path) -> None:
    class Never:
        def __getattr__(self, name: str) -> object:
            raise AssertionError("the pipeline was used")

    from safetensors.torch import save_file

    values = {"images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "seconds": torch.tensor(2.0)}
    save_file({**values, "distance": torch.tensor([0.1, 0.2])}, tmp_path / "0.safetensors")
    start = time.perf_counter()
    cell = guided_cell(tmp_path / "0.safetensors", Sampler(Never()), [0, 1], lambda x: x.mean((1, 2, 3)), None, {}, 2)
    assert isinstance(cell, GuidedCell) and cell.seconds == 2.0 and time.perf_counter() - start < 5
    assert cell.distances["distance"].tolist() == pytest.approx([0.1, 0.2])
