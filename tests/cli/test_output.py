"""Results are printed whatever the encoding of the output lacks, and whatever the names of files are."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dreamsim_guidance.cli import main
from dreamsim_guidance.metric.dreamsim import DreamSim

MINE = '''
from dataclasses import dataclass
from pathlib import Path

from dreamsim_guidance.experiment.registry import recipe


@dataclass(frozen=True)
class Greeting:
    text: str = "grüße 猫"

    def run(self, folder: Path) -> dict[str, str]:
        if self.text == "fail":
            raise ValueError("no 猫 here")
        (folder / "made.txt").write_text(self.text, encoding="utf-8")
        return {"text": self.text}


@recipe
def greet() -> Greeting:
    """Grüße."""
    return Greeting()
'''


class Ascii(io.TextIOWrapper):
    """An output as under LANG=C or PYTHONIOENCODING=ascii: strict, without the letters of most languages."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii", errors="strict")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("katze-猫.py").write_text(MINE, encoding="utf-8")
    return tmp_path


@pytest.fixture
def printed(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, str]]:
    """stdout and stderr of a command that must end with `code`, where both are `Ascii`."""

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        out, err = Ascii(), Ascii()
        with monkeypatch.context() as patch:  # here, and not for the whole test: pytest's own capture comes in between
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            assert main(words) == code, err.text()
        return out.text(), err.text()

    return run


Printed = Callable[..., tuple[str, str]]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("show", "katze-猫.py"), r"text  str  gr\xfc\xdfe \u732b"),
        (("copy", "katze-猫.py", "--to", "kopie-é.py"), r"kopie-\xe9.py: edit it, then"),
        (("run", "katze-猫.py", "--folder", "lauf-ö"), r'"text": "gr\u00fc\u00dfe \u732b"'),
        (("run", "katze-猫.py", "--help"), "--text STR"),
        (("--help",), "recipes"),
    ],
)
def test_a_character_that_the_output_lacks_is_escaped(printed: Printed, words: tuple[str, ...], text: str) -> None:
    assert text in printed(*words)[0]


@pytest.mark.parametrize("words", [("run", "katze-猫.py", "text=fail"), ("show", "kätzchen")])
def test_an_error_is_escaped_too(printed: Printed, words: tuple[str, ...]) -> None:
    last = printed(*words, code=2)[1].splitlines()[-1]
    assert last.startswith("error: ") and (r"\u732b" in last or r"k\xe4tzchen" in last)


def test_distances_of_files_with_any_name_are_printed(workdir: Path, printed: Printed, metric: DreamSim) -> None:
    from PIL import Image

    metric.save(workdir / "tiny.safetensors", source="random weights of a test", licence="none")
    names = ["a.png", "猫.png", "line\nbreak.png", os.fsdecode(b"\xff.png")]
    for folder in ("one", "other"):
        Path(folder).mkdir()
        for name in names:
            Image.new("RGB", (32, 32), (200, 100, 0)).save(Path(folder) / name)
    Path("one", "only-ñ.png").write_bytes(Path("one", "a.png").read_bytes())
    out, err = printed("compare", "one", "other", "--metric", "tiny.safetensors")
    *lines, last = out.splitlines()
    assert last.endswith("mean of 4") and len(lines) == 4
    assert {line.split("  ")[1] for line in lines} == {"a.png", r"\u732b.png", r"line\nbreak.png", r"\xff.png"}
    assert err.splitlines()[-1] == r"only in one: only-\xf1.png"


def test_paths_are_shown_with_forward_slashes(printed: Printed) -> None:
    assert "run folder: runs/first" in printed("run", "katze-猫.py", "--folder", os.path.join("runs", "first"))[1]
    out, _ = printed("copy", "katze-猫.py", "--to", os.path.join("folder", "mine.py"))
    assert "folder/mine.py: edit it, then `dreamsim-guidance run folder/mine.py:greet`" in out
