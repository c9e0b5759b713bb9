"""Train a small autoencoder twice, on L1 and on DreamSim + L1, and compare the two on photographs that were not trained on.

    python examples/train_autoencoder.py                # about a minute on two cores; writes autoencoder.png
    python examples/train_autoencoder.py --steps 2000   # sharper

The code has 48 times fewer numbers than the image, so that the loss decides which details are kept.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from tqdm import trange

from dreamsim_guidance import DreamSim, PairLoss, save_image
from dreamsim_guidance.data.photographs import HELD_OUT, photograph, random_crop, training_photographs
from dreamsim_guidance.losses import L1, SSIM, DreamSimLoss

SIZE = 64


def autoencoder(width: int = 32, code: int = 4) -> nn.Module:
    def block(a: int, b: int, stride: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(a, b, 2 + stride, stride, 1), nn.GroupNorm(8, b), nn.SiLU())

    encoder = [block(3, width, 2), block(width, 2 * width, 2), block(2 * width, 2 * width, 2)]
    decoder: list[nn.Module] = []
    for a, b in ((code, 2 * width), (2 * width, width), (width, width // 2)):
        decoder += [block(a, 4 * b, 1), nn.PixelShuffle(2)]
    return nn.Sequential(*encoder, nn.Conv2d(2 * width, code, 1), *decoder, nn.Conv2d(width // 2, 3, 1), nn.Sigmoid())


def crops(photographs: list[Tensor], count: int, generator: torch.Generator) -> Tensor:
    indices = torch.randint(len(photographs), (count,), generator=generator).tolist()
    return torch.cat([random_crop(photographs[i], SIZE, generator) for i in indices])


def train(loss: PairLoss, photographs: list[Tensor], steps: int) -> nn.Module:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = autoencoder()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in (bar := trange(steps, desc=repr(loss))):
        images = crops(photographs, 16, generator)
        total, terms = loss.value_and_terms(model(images), images)
        optimiser.zero_grad()
        total.mean().backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix({name: f"{value.mean():.3f}" for name, value in terms.items()}, refresh=False)
    return model.eval()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--metric", default="pocket", help="a DreamSim by name, e.g. ensemble, or a model file")
    arguments = parser.parse_args()
    perceptual = DreamSimLoss(DreamSim(arguments.metric))
    photographs = list(training_photographs().values())
    unseen = crops([photograph(name) for name in HELD_OUT], 8, torch.Generator().manual_seed(1))
    rows = [unseen]
    for loss in (L1().named("l1"), perceptual + 0.5 * L1()):
        with torch.enable_grad():
            model = train(loss, photographs, arguments.steps)
        rows.append(model(unseen))
        judges = {"DreamSim": perceptual, "L1": L1(), "1 - SSIM": SSIM()}
        scores = (f"{name} {judge(rows[-1], unseen).mean():.4f}" for name, judge in judges.items())
        print(f"trained on {loss}: {', '.join(scores)} on photographs not seen")
    save_image(torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2), "autoencoder.png")
    print("autoencoder.png: original, trained on L1, trained on DreamSim + L1")


if __name__ == "__main__":
    main()
