"""The code blocks of README.md and docs/: what stands in for published weights, and how they run.

A page's blocks run in order: Python in one namespace, commands of `dreamsim-guidance` in this process, all in a temporary
folder with the files of `prepare`. A comment before a block, `<!-- parsed only: reason -->`, says that its commands go
through the command line's parser (unknown options and recipes are errors), and its Python through the compiler, without being
run.

Stand-ins, so that nothing is downloaded (`stand_ins`):

- `DreamSim()` and the other published variants are the pocket ensemble, or a tiny random one for patch variants;
- `from_pretrained` of a diffusers pipeline or autoencoder on the Hub gives a tiny random Stable Diffusion of 32 x 32 pixels;
- the device "cuda" is "cpu".
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import ROOT, Block, commands

from dreamsim_guidance import VARIANTS, DreamSim, save_image
from dreamsim_guidance.data.photographs import photograph
from dreamsim_guidance.preprocess import resize

__all__ = ["parse", "prepare", "run_block", "stand_ins"]

NOT_RUN = {"cd": "moves", "git": "clones", "pip": "installs", "sbatch": "needs Slurm", "chromium": "is a browser"}
"""Programs that no test runs, and why. Of `pip install` the extras are checked."""

RUN_BY_CI = {"pytest", "ruff", "mypy", "sphinx-build"}
"""Programs of a contributor, which .ci/run runs; the files that they name are checked."""


class Parsed(BaseException):
    """The command line was understood; nothing was run."""


def parse(arguments: list[str]) -> None:
    """Give words to the parser of `dreamsim-guidance` and to the recipe's fields; fail on what they refuse."""
    import dreamsim_guidance.cli as cli
    from dreamsim_guidance.cli import guide, invert
    from dreamsim_guidance.experiment import runner

    def stop(*_: Any, **__: Any) -> None:
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        for info in pkgutil.iter_modules(cli.__path__):
            module = importlib.import_module(f"{cli.__name__}.{info.name}")
            for value in vars(module).values():
                defined_here = inspect.isclass(value) and value.__module__ == module.__name__
                if defined_here and "__call__" in vars(value) and not _passes_fields_on(value):
                    patch.setattr(value, "__call__", stop)
        # commands that pass fields on to a recipe stop when the recipe has taken them
        patch.setattr(runner, "run", stop)
        patch.setattr(guide, "guide_recipe", stop)
        patch.setattr(invert, "invert_recipe", stop)
        try:
            code = cli.main(arguments)
        except Parsed:
            return
    if code != 0 or not {"--help", "-h", "--version"} & set(arguments):
        raise AssertionError(f"dreamsim-guidance {shlex.join(arguments)} was not understood (exit code {code})")


def _passes_fields_on(command: type) -> bool:
    """Whether a command hands words to a recipe, which is what checks them."""
    return "words" in inspect.signature(command.__call__).parameters


def check_command(words: list[str], run: bool) -> None:
    """Run a command or, with `run` False, parse it. Raises AssertionError for one that fails or is not understood."""
    while words and re.match(r"[A-Za-z_]+=", words[0]):  # variables
        words = words[1:]
    if not words:
        return
    program, arguments = words[0], words[1:]
    if program == "dreamsim-guidance":
        if not run:
            parse(arguments)
            return
        from dreamsim_guidance.cli import main

        code = main(arguments)
        assert code == 0, f"{shlex.join(words)} ended with {code}"
    elif "dreamsim_guidance" in arguments:  # torchrun -m dreamsim_guidance ..., accelerate launch ...
        assert not run, f"{program} starts processes: say `parsed only` and why"
        parse(arguments[arguments.index("dreamsim_guidance") + 1 :])
    elif program == "python" and arguments[0] == "-m":  # a module of the library with `main(words)`
        main = importlib.import_module(arguments[1]).main
        if run:
            main(arguments[2:])
    elif program in NOT_RUN:
        for extra in re.findall(r"\[(\w+)\]", " ".join(arguments)):
            assert extra in extras(), f"pyproject.toml has no extra '{extra}'"
    elif program in RUN_BY_CI or program in ("python", "bash"):
        files = [word for word in arguments if re.search(r"\.(py|sh)$", word)]
        assert program in RUN_BY_CI or files, shlex.join(words)
        for file in files:
            assert (ROOT / file).is_file(), f"{shlex.join(words)}: there is no {file}"
        for folder in [word for word in arguments if re.match(r"(tests|docs|examples)(/|$)", word)]:
            assert (ROOT / folder).exists(), f"{shlex.join(words)}: there is no {folder}"
    else:
        raise AssertionError(f"no test runs `{program}`: {shlex.join(words)}")


def extras() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[project.")[0]
    return set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run one block (or parse it), Python in the namespace `names`."""
    try:
        if block.language == "python":
            text = block.text.replace('"cuda"', '"cpu"')
            code = compile("\n" * block.line + text, str(block.page), "exec", dont_inherit=True)
            if block.parsed_only is None:
                exec(code, names)
            else:
                check_imports(text)
        elif block.language == "sh":
            for words in commands(block.text):
                check_command(words, run=block.parsed_only is None)
    except (Exception, SystemExit) as error:
        raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error


def check_imports(text: str) -> None:
    """Whether the names that a block imports from this library exist."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dreamsim_guidance"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@contextmanager
def stand_ins() -> Iterator[None]:
    """Replace what would have to be downloaded; see the module's docstring."""
    from diffusers import AutoencoderTiny, DiffusionPipeline

    build, load_pipeline = DreamSim.__init__, DiffusionPipeline.from_pretrained.__func__

    def pocket(self: DreamSim, model: Any = "ensemble", **options: Any) -> None:
        name = str(model) if isinstance(model, str) and model in VARIANTS else None
        if name is not None:
            options = {
                key: value for key, value in options.items() if key not in ("weights", "cache_dir", "pretrained")
            }
            if name.endswith("_patch"):
                model, options = [patch_branch()], {**options, "pretrained": False}
            else:
                model = "pocket"
        build(self, model, **options)

    def tiny_pipeline(cls: type, name: Any, **options: Any) -> Any:
        if Path(name).is_dir():
            return load_pipeline(cls, name, **options)
        from tiny_unet_pipelines import sd

        return sd().pipe

    def tiny_autoencoder(cls: type, name: Any, **options: Any) -> Any:
        from tiny_networks import tiny_autoencoder as build_tiny

        return build_tiny()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DreamSim, "__init__", pocket)
        patch.setattr(DiffusionPipeline, "from_pretrained", classmethod(tiny_pipeline))
        patch.setattr(AutoencoderTiny, "from_pretrained", classmethod(tiny_autoencoder))
        yield


def patch_branch() -> Any:
    """A tiny random tower that keeps its patch tokens."""
    from dreamsim_guidance import BranchConfig

    overrides = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
    return BranchConfig("dino", "vit_base_patch16_224", feature="cls_patch", image_size=64, overrides=overrides)


def prepare(folder: Path) -> None:
    """Write the files that snippets name.

    photo.png cat.jpg a.png b.png c.png start.png reference.png mask.png     pictures of 48 x 64 pixels
    targets/ ours/ theirs/     five pictures each, of the same names; out/ three
    nights/                    60 triplets in NIGHTS' layout, of drawn scenes
    mine/                      ref/ a/ b/ and votes.csv, ten triplets
    """
    from dreamsim_guidance.data import write_scene_set

    photo, other = (resize(photograph(name), (48, 64)) for name in ("astronaut", "chelsea"))
    pictures = {"photo.png": photo, "a.png": photo, "reference.png": photo, "cat.jpg": other, "b.png": other}
    pictures |= {"c.png": photo.flip(-1), "start.png": other.flip(-1)}
    for name, picture in pictures.items():
        save_image(picture, folder / name)
    mask = torch.zeros(1, 3, 48, 64)
    mask[..., 16:48] = 1
    save_image(mask, folder / "mask.png")
    generator = torch.Generator().manual_seed(0)
    for name, noise in {"targets": 0.0, "ours": 0.1, "theirs": 0.3, "out": 0.2}.items():
        for number in range(5):
            picture = photo.roll(7 * number, dims=-1)
            picture = picture + noise * torch.randn(picture.shape, generator=generator)
            save_to = folder / name / f"{number}.png"
            save_to.parent.mkdir(exist_ok=True)
            save_image(picture.clamp(0, 1), save_to)
    write_scene_set(folder / "nights", 60, size=32, workers=1)
    rows = ["name,votes_a,votes_b"]
    for number in range(10):
        for side, noise in {"ref": 0.0, "a": 0.05, "b": 0.2}.items():
            picture = photo.roll(5 * number, dims=-1)
            picture = (picture + noise * torch.randn(picture.shape, generator=generator)).clamp(0, 1)
            (folder / "mine" / side).mkdir(parents=True, exist_ok=True)
            save_image(picture, folder / "mine" / side / f"{number}.png")
        rows.append(f"{number}.png,{4 + number % 3},{number % 2}")
    (folder / "mine" / "votes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
