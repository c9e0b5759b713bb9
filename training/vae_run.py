"""The work of fine-tuning an autoencoder: batches of crops, steps on accelerate, judgments, exact resumption, files."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from dreamsim_guidance.data.pictures import check_pictures
from dreamsim_guidance.data.scenes.drawing import picture_grid
from dreamsim_guidance.files.atomic import new_folder, write_json
from dreamsim_guidance.losses import SSIM, DreamSimLoss, GradientBalance
from dreamsim_guidance.losses.pixel import psnr
from dreamsim_guidance.metric.dreamsim import DreamSim
from dreamsim_guidance.pipelines.decoder import bounded
from dreamsim_guidance.preprocess import save_image
from dreamsim_guidance.processes import agreed, is_main, process_state
from dreamsim_guidance.training.accelerate_state import own_accelerate_state
from dreamsim_guidance.training.checkpoints import read_checkpoint, write_checkpoint
from dreamsim_guidance.training.curves import draw_panels
from dreamsim_guidance.training.fit import step_generator
from dreamsim_guidance.training.picture_crops import CropBatches, digest, pictures_in, split_off, squares
from dreamsim_guidance.training.state import restore_training, training_state
from dreamsim_guidance.training.vae import TrainVAE
from dreamsim_guidance.training.weight_average import SwappedAverage
from dreamsim_guidance.types import Image

log = logging.getLogger(__name__)

__all__ = ["train_vae"]

_SHOWN = 8
"""Held-out pictures in the preview."""


def train_vae(config: TrainVAE, folder: Path) -> dict[str, Any]:
    """Carry out `TrainVAE.run`."""
    files = pictures_in(config.data)
    train, held_out = split_off(files, config.held_out, config.seed)
    agreed(lambda: check_pictures(files) if is_main() else 0)
    with own_accelerate_state() as precision:
        made_for = f"{config.decisive} {digest(files, config.data)}"
        return _Run(config, folder, train, squares(held_out, config.size), made_for, precision).run()


class _Reconstruction(nn.Module):
    """The autoencoder as one module, so that parallel wrappers see its whole forward pass."""

    def __init__(self, config: TrainVAE) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        self.vae: Any = AutoencoderKL.from_pretrained(
            config.model, subfolder=config.subfolder, torch_dtype=torch.float32
        )
        self.decoder_alone = config.part == "decoder"
        if self.decoder_alone:
            self.vae.requires_grad_(False)
            for part in (self.vae.decoder, self.vae.post_quant_conv):
                if part is not None:
                    part.requires_grad_(True)
        if config.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()

    def forward(self, images: Image, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decoded images, not clamped, and the mean divergence of the latents; without noise their mode is decoded."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.decoder_alone):
            posterior = self.vae.encode(2 * images - 1).latent_dist
        latents = posterior.mode() if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        return self.vae.decode(latents).sample / 2 + 0.5, divergence


class _Run:
    """The state of one fine-tuning."""

    def __init__(
        self, config: TrainVAE, folder: Path, train: list[Path], held_out: Image, made_for: str, precision: str | None
    ) -> None:
        self.config, self.folder, self.made_for = config, folder, made_for
        self.accelerator = Accelerator(
            cpu=process_state().device.type == "cpu", mixed_precision=config.precision or precision
        )
        device = self.accelerator.device
        if self.accelerator.mixed_precision == "fp16" and device.type == "cpu":
            raise ValueError("precision='fp16' needs an accelerator; a CPU trains in 'no' (float32) or 'bf16'.")
        self.batches = CropBatches(
            train,
            config.size,
            config.batch,
            config.steps,
            config.seed,
            config.smallest,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        self.held_out = held_out.to(device)
        self.perceptual = DreamSimLoss(DreamSim(config.metric), device=device)
        self.judges: dict[str, Any] = {"1 - SSIM": SSIM(), "dreamsim": self.perceptual}
        if config.judge is not None:
            self.judges["judge"] = DreamSimLoss(DreamSim(config.judge), device=device)
        reconstruction = _Reconstruction(config).to(device)
        self.last_layer: nn.Parameter = reconstruction.vae.decoder.conv_out.weight
        self.balance = GradientBalance(momentum=0.9) if config.balanced else None
        if self.balance is not None:
            self.balance.to(device)
        optimiser = config.optimiser.build(reconstruction.parameters())
        self.model: nn.Module
        self.model, self.prepared = self.accelerator.prepare(reconstruction, optimiser)
        self.optimiser = self.prepared.optimizer
        self.average = SwappedAverage(self.model, config.average) if config.average else None
        self.history: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        first = self._resume()
        if first == 0:
            self._judge(0)
        main, config = self.accelerator.is_main_process, self.config
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(first, config.steps),
            num_workers=config.workers,
            prefetch_factor=2 if config.workers else None,
        )
        with tqdm(total=config.steps, initial=first, desc="training", unit="step", disable=not main) as bar:
            for step, images in enumerate(loader, first):
                terms = self._step(step, images.to(self.accelerator.device))
                done, last = step + 1, step + 1 == config.steps
                bar.update()
                if done % config.log_every == 0 or last:
                    self._log(done, terms, bar)
                if done % config.validate_every == 0 or last:
                    self._judge(done)
                if done % config.save_every == 0 or last:
                    self._save(done)
        self._export()
        judged = [row for row in self.history if "PSNR" in row]
        return {
            when: {name: row[name] for name in ("PSNR", *self.judges)}
            for when, row in (("start", judged[0]), ("end", judged[-1]))
        }

    def _step(self, step: int, images: Tensor) -> dict[str, Tensor]:
        """Make one step of the optimiser; return the terms of this process's part of the loss, detached."""
        self.model.train()
        config, accelerator = self.config, self.accelerator
        for group in self.prepared.param_groups:
            group["lr"] = config.optimiser.rate(step, config.steps)
        y, divergence = self.model(images, self._noise(step, len(images)))
        difference = y - images
        pixels = config.l1 * difference.abs().mean() + config.mse * difference.square().mean()
        terms = {"pixels": pixels, "kl": divergence}
        total = pixels if config.part == "decoder" else pixels + config.kl * divergence
        if config.dreamsim > 0:
            terms["dreamsim"] = self.perceptual(bounded(y), images).mean()
            weight: float | Tensor = config.dreamsim
            if self.balance is not None:
                scale = 1.0 if accelerator.scaler is None else accelerator.scaler.get_scale()
                terms["balance"] = self.balance(pixels, terms["dreamsim"], self.last_layer, scale)
                weight = weight * terms["balance"]
            total = total + weight * terms["dreamsim"]
        accelerator.backward(total)
        if config.optimiser.clip is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), config.optimiser.clip)
        self.prepared.step()
        self.prepared.zero_grad()
        if self.average is not None:
            self.average.update(step)
        return {"loss": total.detach(), **{name: term.detach() for name, term in terms.items()}}

    @property
    def _vae(self) -> Any:
        return cast(Any, self.accelerator.unwrap_model(self.model)).vae

    def _noise(self, step: int, count: int) -> Tensor:
        """Normal noise for the latents of a step, the same for a row whatever the number of processes."""
        shape_of = self._vae.config
        side = self.config.size // 2 ** (len(shape_of.block_out_channels) - 1)
        shape = (self.config.batch, shape_of.latent_channels, side, side)
        noise = torch.randn(shape, generator=step_generator(self.config.seed + 1, step))
        return noise[self.batches.process :: self.batches.processes][:count].to(self.accelerator.device)

    def _log(self, step: int, terms: dict[str, Tensor], bar: Any) -> None:
        values = cast(Tensor, self.accelerator.reduce(torch.stack(list(terms.values())).float(), "mean")).tolist()
        row = {"step": step, **dict(zip(terms, values, strict=True))}
        if not math.isfinite(row["loss"]):
            raise ValueError(
                f"the loss became {row['loss']} before step {step}; lower the learning rate, or set clip=1.0."
            )
        self.history.append({**row, "learning rate": self.config.optimiser.rate(step - 1, self.config.steps)})
        bar.set_postfix_str(", ".join(f"{name} {row[name]:.4g}" for name in terms))

    @torch.no_grad()
    def _judge(self, step: int) -> None:
        """Judge the held-out pictures with the averaged weights, and draw them."""
        self.model.eval()
        sums: dict[str, list[Tensor]] = {name: [] for name in ("PSNR", *self.judges)}
        decoded: list[Tensor] = []
        with self.average.in_place() if self.average else contextlib.nullcontext():
            for images in self.held_out.split(self.config.batch):
                y = self.model(images)[0].float().clamp(0, 1)
                decoded.append(y)
                sums["PSNR"].append(psnr(y, images))
                for name, judge in self.judges.items():
                    sums[name].append(judge(y, images))
        row = {name: float(torch.cat(parts).mean()) for name, parts in sums.items()}
        self.history.append({"step": step, **row})
        log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in row.items()))
        if self.accelerator.is_main_process:
            shown = torch.cat(decoded)[:_SHOWN].cpu()
            if step == 0:
                save_image(picture_grid(shown, _SHOWN), self.folder / "start.png")
            rows = torch.cat([self.held_out[:_SHOWN].cpu(), shown])
            save_image(picture_grid(rows, len(shown)), self.folder / "preview.png")
            if step > 0:
                self._draw()

    def _save(self, step: int) -> None:
        state = {"step": step, "history": self.history}
        state |= training_state(self.accelerator, self.model, self.optimiser, self.average)
        if self.balance is not None:
            state["balance"] = {name: value.cpu() for name, value in self.balance.state_dict().items()}
        if self.accelerator.is_main_process:
            write_checkpoint(state, self.folder / "checkpoint.pt", self.made_for)
            write_json(self.folder / "history.json", self.history)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> int:
        """Restore the checkpoint if there is one; return the step to continue with."""
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return 0
        saved = read_checkpoint(path, self.made_for)
        self.average = restore_training(saved, self.accelerator, self.model, self.optimiser, self.average)
        if self.balance is not None:
            self.balance.load_state_dict(saved["balance"])
        self.history = saved["history"]
        log.info("going on from step %d of %d", saved["step"], self.config.steps)
        return int(saved["step"])

    def _export(self) -> None:
        """Write the autoencoder, with averaged weights if there are any, in place of an earlier one."""
        with self.average.in_place() if self.average else contextlib.nullcontext():
            if self.accelerator.is_main_process:
                shutil.rmtree(self.folder / "vae", ignore_errors=True)
                with new_folder(self.folder / "vae") as temporary:
                    self._vae.save_pretrained(temporary)
        self.accelerator.wait_for_everyone()

    def _draw(self) -> None:
        def curves(rows: list[dict[str, Any]], *names: str) -> dict[str, list[tuple[int, float]]]:
            return {name: [(int(row["step"]), row[name]) for row in rows if name in row] for name in names}

        logged = [row for row in self.history if "loss" in row]
        judged = [row for row in self.history if "PSNR" in row]
        panels = {
            "training": curves(logged, "loss", "pixels", "dreamsim"),
            "PSNR of held-out pictures, dB": curves(judged, "PSNR"),
            "distances of held-out pictures": curves(judged, *self.judges),
        }
        draw_panels(panels, self.folder / "curves.png")
