"""Models on the Hugging Face Hub: a repository with `model.safetensors` and a README made from the model's card."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from dreamsim_guidance.checkpoints.model_file import read_card
from dreamsim_guidance.files.atomic import writing
from dreamsim_guidance.files.network import hub_available, is_offline

__all__ = ["FILE_NAME", "fetch", "model_card", "push", "write_folder_card"]

FILE_NAME = "model.safetensors"

_LICENCES = {"mit", "apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc0-1.0"}
"""Identifiers of the Hub that a card may name; everything else is "other" there, and spelled out in the text."""


def fetch(
    model: str | os.PathLike[str],
    *,
    filename: str = FILE_NAME,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool | None = None,
    token: str | bool | None = None,
) -> Path:
    """The path of the model file that `model` names.

    model: a file, a folder that holds `filename`, or a repository of the Hub, "owner/name"; existing paths come first.
    revision: branch, tag or commit; with a commit the file cannot change.
    cache_dir: instead of huggingface_hub's cache.
    local_files_only: True forbids the network, False allows it; None follows `network.is_offline`, and
        whether the Hub answers.
    token: as in huggingface_hub.

    Raises FileNotFoundError for a folder without the file, and for a repository that is not cached while the Hub cannot be
    used; ValueError for a name that is neither a path nor a repository, and for a repository or revision that does not exist.
    """
    path, cache = Path(model).expanduser(), None if cache_dir is None else os.fspath(cache_dir)
    if path.is_file():
        return path
    if path.is_dir():
        if (path / filename).is_file():
            return path / filename
        raise FileNotFoundError(f"the folder '{path}' has no {filename}; write it with save_pretrained.")
    name = os.fspath(model)
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ValueError(f"'{name}' is no file or folder here, and no repository of the Hub ('owner/name').")

    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    available = hub_available(local_files_only)
    try:
        return Path(
            hf_hub_download(
                name, filename, revision=revision, cache_dir=cache, local_files_only=not available, token=token
            )
        )
    except LocalEntryNotFoundError as error:
        reason = "downloading is off" if is_offline(local_files_only) else "the Hub cannot be reached"
        raise FileNotFoundError(
            f"{filename} of '{name}' is not in the cache and {reason}; get "
            f"https://huggingface.co/{name}/resolve/{revision or 'main'}/{filename} and give the file's path instead."
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"the Hub has no model '{name}', or it is private: log in with `hf auth login`, or give a token."
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"the model '{name}' has no revision '{revision}'.") from error
    except EntryNotFoundError as error:
        raise ValueError(f"the model '{name}' has no {filename}: it was not written by this library.") from error


def push(
    file: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a dreamsim_guidance model",
    create_pr: bool = False,
) -> str:
    """Upload a model file to the repository `repo_id`, which is created if it does not exist; return the commit's address.

    file: one that `write_model` wrote. A README made from its card goes into the same commit; an existing README is kept.
    private: for a new repository. create_pr: propose the change instead of making it. token, revision, commit_message: as in
        huggingface_hub.

    Raises ValueError, before anything is created, for a file that is no model of this library.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    card = read_card(file)  # refuses what is not a model of ours, before anything is created
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    operations = [CommitOperationAdd(FILE_NAME, os.fspath(file))]
    if not api.file_exists(repo_id, "README.md", revision=revision):
        operations.append(CommitOperationAdd("README.md", model_card(card, repo_id).encode()))
    commit = api.create_commit(
        repo_id, operations, commit_message=commit_message, revision=revision, create_pr=create_pr
    )
    return str(commit.pr_url if create_pr else commit.commit_url)


def write_folder_card(folder: str | os.PathLike[str]) -> Path:
    """Write a README beside the model file in `folder`, unless there is one; return its path."""
    readme = Path(folder) / "README.md"
    if not readme.exists():
        with writing(readme) as temporary:
            temporary.write_text(model_card(read_card(Path(folder) / FILE_NAME), "FOLDER"), encoding="utf-8")
    return readme


def model_card(card: dict[str, Any], repo_id: str) -> str:
    """The README of a model's repository, in the Hub's format, from the card in the model's file."""
    from huggingface_hub import ModelCardData

    spdx = card["licence"].lower()
    licence = {"license": spdx} if spdx in _LICENCES else {"license": "other", "license_name": "see-the-text-below"}
    data = ModelCardData(
        library_name="dreamsim_guidance", tags=["perceptual-similarity", "image-similarity", "dreamsim"], **licence
    )
    branches = [
        f"| {branch['name']} | `{branch['architecture']}` ({branch['source']}) | {branch['feature']} | "
        f"{branch['image_size']} |"
        for branch in card["branches"]
    ]
    records = [
        f"- {branch['name']}: `{weights['place']}`, licence {weights.get('licence') or 'unknown'}, "
        f"source {weights.get('source') or 'unknown'}, sha256 `{weights.get('sha256') or 'unknown'}`"
        for branch in card["branches"]
        if isinstance(weights := branch.get("weights"), dict) and "place" in weights
    ]
    numbers = [f"| {name} | {value} |" for name, value in card["reference"].items()]
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {card['name']}",
        "",
        "A perceptual metric for images: DreamSim's architecture, differentiable, read by dreamsim_guidance.",
        "",
        "```python",
        "from dreamsim_guidance import DreamSim, load_image",
        "",
        f'metric = DreamSim.from_pretrained("{repo_id}")',
        'distance = metric(load_image("a.png"), load_image("b.png"))  # 0 for equal images',
        "```",
        "",
        "| branch | tower | feature | size |",
        "|---|---|---|---|",
        *branches,
        "",
        f"Source: {card['source']}",
        "",
        f"Licence: {card['licence']}",
    ]
    if records:
        lines += ["", "The towers began with these weights, whose licences apply too:", "", *records]
    if numbers:
        lines += ["", "| reference number | value |", "|---|---|", *numbers]
    return "\n".join(lines) + "\n"
