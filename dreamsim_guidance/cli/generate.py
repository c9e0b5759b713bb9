"""The command `generate`: pictures and triplets from a plan, in NIGHTS' layout."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from dreamsim_guidance.cli.outputs import check_folder

__all__ = ["GenerateCommand"]


@dataclass(frozen=True)
class GenerateCommand:
    """Generate pictures from a plan, and triplets of a reference and two variations, in the layout of NIGHTS.

    A plan is a file (.toml or .json) or the name of one that ships: pocket (offline, minutes), sd14, sd15, sdxl, flux. The
    triplets are screened by the metric; nobody has judged them yet (study make asks people). Run it again to resume.
    """

    plan: Positional[str]
    """A file (.toml, .json), or the name of a built-in plan."""
    to: Path | None = None
    """Folder of data.csv, ref/, distort/ and the records; new, or begun with the same plan."""
    show: bool = False
    """Print the text of a built-in plan, to begin one of your own, and stop."""
    device: str | None = None
    """cpu, cuda, mps, ...; by default an accelerator if there is one."""

    def __call__(self) -> int:
        from dreamsim_guidance.generation.plan_file import built_in_plans, read_plan

        if self.show:
            if self.plan not in built_in_plans():
                raise ValueError(f"'{self.plan}' is not a built-in plan; --show prints {', '.join(built_in_plans())}.")
            print(built_in_plans()[self.plan], end="")
            return 0
        plan = read_plan(self.plan)
        if self.to is None:
            raise ValueError("a folder is needed: --to DIR, where the pictures are written.")
        check_folder(self.to.absolute().parent, "--to")
        from dreamsim_guidance.cli.execution import print_table
        from dreamsim_guidance.generation.generating import generate

        result = generate(plan, self.to, self.device)
        if result.sampled:
            rate = result.sampled / result.seconds
            print(f"sampled {result.sampled} of {result.pictures} pictures, {rate:.2f} images/s", file=sys.stderr)
        screening = result.screening
        print_table(screening.table())
        for reason, count in screening.dropped.items():
            if count:
                print(f"dropped {count}: {reason}", file=sys.stderr)
        print(f"{len(screening.rows)} of {len(screening.triplets)} triplets kept")
        for name in ("data.csv", "index.html"):
            print((self.to / name).as_posix())
        return 0
