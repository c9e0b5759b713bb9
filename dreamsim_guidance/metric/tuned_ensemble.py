"""The weights of a metric: an ensemble, its adapters and head, folding, and saving."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dreamsim_guidance.metric import adapters
from dreamsim_guidance.metric.ensemble import MLPHead
from dreamsim_guidance.metric.loading import Loaded, card_of

__all__ = ["Adapters", "TunedEnsemble"]

Adapters = str | Sequence[str | None]
"""The name of an attached adapter, or one for each image; None in a list is the ensemble without adapter."""

Self = TypeVar("Self", bound="TunedEnsemble")  # typing has Self from Python 3.11 on


class TunedEnsemble(nn.Module):
    """A frozen ensemble in eval mode, with its adapters, head and card; the base of `DreamSim`.

    An adapter that comes with the ensemble is folded into its weights at once, if `fold`: in float32, or in float64 if that is
    `dtype`; the weights are rounded to `dtype` afterwards.
    """

    def __init__(
        self,
        loaded: Loaded,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        fold: bool,
        normalize_embeds: bool,
        stacked: bool | None,
    ) -> None:
        super().__init__()
        self.ensemble = loaded.ensemble
        self.variant, self.source, self.origin = loaded.variant, loaded.source, loaded.origin
        self.normalize_embeds = normalize_embeds
        self.folded_in: torch.dtype | None = None
        """Precision in which an adapter was folded into the weights; None if none was."""
        self.adapter_state: tuple[int, str | None] = (0, None)
        """Count of changes and name of the active adapter: embeddings made in two states do not go together."""
        dtype = self.dtype if dtype is None else dtype
        if loaded.adapter is not None:
            adapters.load_adapter(self.ensemble, loaded.adapter)
            self.adapter_state = (0, "default")
        if fold and adapters.adapter_names(self.ensemble):
            self.ensemble.to(dtype=torch.promote_types(dtype, torch.float32))
            self.fold()
        self.requires_grad_(False).eval()
        if stacked is False:
            self.ensemble.unstack()
        elif stacked:
            self.ensemble.stacked = True
        self.ensemble.to(device=device, dtype=dtype)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.ensemble.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.ensemble.dtype

    def fold(self: Self) -> Self:
        """Fold the active adapter into the weights, in their own precision; the embedding changes by rounding only."""
        if adapters.adapter_names(self.ensemble):
            self.folded_in = self.dtype if adapters.fold_adapters(self.ensemble) else None
        return self

    def _apply(self: Self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = self.dtype
        super()._apply(fn, recurse)
        if self.folded_in is not None and self.dtype.itemsize > max(before.itemsize, self.folded_in.itemsize):
            warnings.warn(
                f"the adapter was folded in {self.folded_in}, and its rounding stays in the weights, which are now "
                f"{self.dtype}; DreamSim(..., dtype={self.dtype}) folds in that precision.",
                stacklevel=3,
            )
        return self

    def attach_adapter(
        self,
        rank: int = 16,
        alpha: float = 8.0,
        dropout: float = 0.3,
        name: str = "default",
        targets: Sequence[str] | None = None,
    ) -> None:
        """Attach a fresh, trainable adapter and make it the active one.

        rank, alpha, dropout, targets: see `adapters.attach_adapter`; the defaults are the original's for the ensemble, and for
            other towers the layers that `adapters.default_targets` names.
        Raises ValueError if an adapter is part of the weights already, for a name that is taken, and for targets that match no
        layer or a module that takes no adapter.
        """
        self._refuse_if_folded("attach")
        adapters.attach_adapter(self.ensemble, rank, alpha, dropout, targets, name)
        self._changed(name)

    def load_adapter(self, folder: str | os.PathLike[str], name: str = "default") -> None:
        """Attach the adapter in a peft folder, frozen, and make it the active one.

        Raises FileNotFoundError for a folder without the adapter's files, ValueError for an adapter that does not fit, for a
        name that is taken, and if an adapter is part of the weights already.
        """
        self._refuse_if_folded("load")
        adapters.load_adapter(self.ensemble, folder, name)
        self._changed(name)

    def set_adapter(self, name: str | None, trainable: bool = False) -> None:
        """Make one of several attached adapters the active one; None is the un-tuned ensemble. Frozen unless `trainable`.

        Raises ValueError if no adapter of that name is attached.
        """
        adapters.set_adapter(self.ensemble, name, trainable)
        self.adapter_state = (self.adapter_state[0], name)

    def save_adapter(self, folder: str | os.PathLike[str], name: str | None = None) -> None:
        """Write an adapter, by default the active one, as a peft folder that the original package loads too.

        Raises ValueError if there is no such adapter, OSError if the files cannot be written.
        """
        adapters.save_adapter(self.ensemble, folder, name)

    def attach_head(self, hidden: int = 512, identity: bool = False) -> MLPHead:
        """Put a fresh, trainable residual MLP behind the frozen features: the paper's other way of tuning.

        hidden: its width. identity: start with an output layer of zeros, so that the embedding does not change yet, instead of
        the original's random weights. Begin with `baseline=True`, as the original does. `save` writes the head with the rest.
        """
        head = self.ensemble.attach_head(hidden, identity)
        self._changed(self.adapter_state[1])
        return head

    def _changed(self, active: str | None) -> None:
        """Note that the adapters are no longer the published or saved ones, so that their figures do not apply any more."""
        self.origin = None
        self.source = {**self.source, "reference": {}} if self.source else {}
        self.adapter_state = (self.adapter_state[0] + 1, active)

    def _refuse_if_folded(self, verb: str) -> None:
        if self.folded_in is not None:
            raise ValueError(
                f"cannot {verb} an adapter: one is part of the weights already, and the two would add up. Build the metric "
                "with fold=False to keep several and swap them, or with baseline=True to begin without one."
            )

    @property
    def card(self) -> dict[str, Any]:
        """What a model file says of this metric: branches, source, licence, reference numbers."""
        return card_of(self.ensemble, self.variant, self.source, self.origin, self.normalize_embeds)

    def save(self, path: str | os.PathLike[str], dtype: torch.dtype | None = None, **card: Any) -> None:
        """Write weights (adapter folded) and card to one safetensors file, which `DreamSim(path)` loads.

        dtype: None for the weights' own precision; float16 halves the file.
        card: entries that replace those of the card, such as name, licence, source.

        The file appears whole or not at all. Adapters in training stay as they are. Raises ValueError for a card that cannot
        be written, values that `dtype` cannot hold, and weights without values (the device "meta"); OSError if the file
        cannot be written.
        """
        from dreamsim_guidance.checkpoints.model_file import write_model

        ensemble = self.ensemble
        if adapters.adapter_names(ensemble):
            ensemble = copy.deepcopy(ensemble)
            adapters.fold_adapters(ensemble)
        write_model(ensemble, path, {**self.card, **card}, dtype=dtype)

    def save_pretrained(self, folder: str | os.PathLike[str], **card: Any) -> None:
        """Write the model file and a README made from its card into `folder`; errors as `save`.

        `DreamSim.from_pretrained(folder)` reads it.
        """
        from dreamsim_guidance.checkpoints.hub import FILE_NAME, write_folder_card

        self.save(Path(folder, FILE_NAME), **card)
        write_folder_card(folder)

    def push_to_hub(self, repo_id: str, *, dtype: torch.dtype | None = None, **options: Any) -> str:
        """Upload the model file and a README made from its card to the Hugging Face Hub; return the commit's address.

        repo_id: "owner/name". options: those of `hub.push`: private, token, revision, commit_message, create_pr.
        """
        from dreamsim_guidance.checkpoints.hub import FILE_NAME, push

        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder, FILE_NAME), dtype)
            return push(Path(folder, FILE_NAME), repo_id, **options)
