"""Simulated people answer a study: files of votes as the page writes them, from known probabilities of each answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch

from dreamsim_guidance.files.atomic import write_json
from dreamsim_guidance.study.design import Trial
from dreamsim_guidance.study.record import Study, read_record
from dreamsim_guidance.study.triplets import LEFT

__all__ = ["chance_of_left", "simulate_votes"]

_WIDTH = 320


def simulate_votes(
    study: Study | Path | str,
    to: Path | str,
    chance: Callable[[Trial], float],
    *,
    participants: Collection[int] | None = None,
    lapse: float = 0.0,
    seed: int = 0,
    sessions: Mapping[int, str] | None = None,
) -> list[Path]:
    """Write a file of votes for each participant of a study, as the page writes it, and return the files.

    study: the record of a study of either mode, or its folder.
    to: the folder of the files; files of other people may be in it.
    chance: the probability of the first choice of a trial that is not a catch trial: of "left", the picture `trial.left`, in
        2AFC; of "same" in JND.
    participants: numbers of those who answer, each the whole block; by default all.
    lapse: the share of answers, in [0, 1], that are given at random, catch trials included; by default 0, so that catch trials
        are answered correctly.
    seed: of the answers; they depend on it, on the participant's number and on the study's trials.
    sessions: identifiers of the sessions by participant number; by default random, as on the page.

    Repeated trials are answered independently of the first answer. Raises the errors of `read_record`; ValueError for an
    unknown participant and for a lapse or a chance outside [0, 1].
    """
    study = study if isinstance(study, Study) else read_record(study)
    if not 0 <= lapse <= 1:
        raise ValueError(f"lapse must be a share between 0 and 1, got {lapse}.")
    numbers = range(1, study.participants + 1)
    if unknown := sorted(set(participants or ()) - set(numbers)):
        raise ValueError(f"participant numbers go from 1 to {study.participants}, got {unknown[0]}.")
    files = []
    for number in numbers if participants is None else sorted(set(participants)):
        block = study.blocks[number - 1]
        if not block:
            continue
        generator = torch.Generator().manual_seed(seed * 1000 + number)
        votes = [
            {
                "position": trial.position,
                "trial": trial.id,
                "choice": _choice(study, trial, chance, lapse, generator),
                "milliseconds": 1000,
                "time": f"2025-01-01T{10 + trial.position // 3600:02d}:{trial.position // 60 % 60:02d}:"
                f"{trial.position % 60:02d}.000Z",
                "input": "key",
                "undone": 0,
                "width": _WIDTH,
                **_times(study),
            }
            for trial in block
        ]
        session = (sessions or {}).get(number) or _session(study, number, seed)
        head = {"study": study.id, "session": session, "participant": number, "chosen_by": "simulation"}
        file = Path(to) / f"votes-{study.id}-p{number}-{session[:6]}-{len(votes)}.json"
        write_json(file, {"format": "dreamsim_guidance votes 1", **head, "finished": True, "votes": votes})
        files.append(file)
    return files


def chance_of_left(left_is_nearer: Mapping[str, float]) -> Callable[[Trial], float]:
    """Return the `chance` of `simulate_votes` for a study of triplets.

    left_is_nearer: by a triplet's id, the probability that a person finds the picture of its column `left_path` nearer to the
        reference than that of `right_path`.
    """

    def chance(trial: Trial) -> float:
        p = left_is_nearer[trial.reference]
        return p if trial.left == LEFT else 1 - p

    return chance


def _choice(
    study: Study, trial: Trial, chance: Callable[[Trial], float], lapse: float, generator: torch.Generator
) -> str:
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    first, second = study.choices
    if trial.answer is not None:
        p = float(trial.answer == first)
    elif not 0 <= (p := chance(trial)) <= 1:
        raise ValueError(f"the chance of an answer lies between 0 and 1, got {p} for the trial {trial.id}.")
    return first if u < lapse / 2 + (1 - lapse) * p else second


def _times(study: Study) -> dict[str, float]:
    """How long pictures were on the screen, in JND: as long as they should be."""
    if study.exposure is None:
        return {}
    return {"first_shown": float(study.exposure), "second_shown": float(study.exposure)}


def _session(study: Study, number: int, seed: int) -> str:
    """Sixteen hex digits, as the page draws them."""
    generator = torch.Generator().manual_seed(int(study.id, 16) % (1 << 40) * 997 + seed * 1000 + number)
    return "".join(f"{int(digit):x}" for digit in torch.randint(16, (16,), generator=generator))
