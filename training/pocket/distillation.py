"""Self-distillation without labels: a student learns to give a picture the same name as its own slow average does.

Student and teacher have the same architecture. The student sees all views of a picture, the teacher only the large ones, and
they have to agree across different views:

    loss = mean over pairs (v, w), v != w, of  -sum softmax((t(v) - c) / T_t) log softmax(s(w) / T_s)

The teacher is an exponential average of the student. Its centre c, an average of its outputs, and its low temperature T_t keep
it from giving all pictures the same name.

Caron et al., Emerging properties in self-supervised vision transformers, ICCV 2021.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from dreamsim_guidance.data.photographs import Photographs
from dreamsim_guidance.metric.backbones import Branch
from dreamsim_guidance.training.fit import Learner
from dreamsim_guidance.types import Image
from dreamsim_guidance.views import random_crop, random_squares, recolour

__all__ = ["DistillationLearner", "NamingHead", "easy_first"]


class NamingHead(nn.Module):
    """Maps features to scores of `names` names in [-1, 1]: cosines of an MLP's output, `bottleneck` wide, with prototypes."""

    def __init__(self, features: int, names: int, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.randn(names, bottleneck, dtype=torch.float32))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b names"]:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T


class DistillationLearner(Learner):
    """A student branch and its averaged teacher, trained on batches of scenes and photograph crops.

    Args:
        branch: the student; the teacher starts as a copy of it.
        pictures: two drawings of each scene, easy scenes first.
        photographs: of which crops are taken; may be empty.
        batch: pairs of pictures in a batch, of which `photograph_crops` are crops of photographs.
        names: number of names.
        local_views: small views of each pair, which only the student sees.
        teacher_temperature, student_temperature: T_t and T_s.
        momentum: of the teacher's average at the start; it grows to 1 over the run.
    """

    centre: Tensor

    def __init__(
        self,
        branch: Branch,
        pictures: UInt8[Tensor, "n 2 3 h w"],
        photographs: Photographs,
        batch: int,
        photograph_crops: int,
        names: int,
        local_views: int = 2,
        teacher_temperature: float = 0.04,
        student_temperature: float = 0.1,
        momentum: float = 0.98,
    ) -> None:
        super().__init__()
        features = branch.backbone.num_features
        self.student, self.student_head = branch, NamingHead(features, names)
        self.teacher = copy.deepcopy(branch).requires_grad_(False)
        self.teacher_head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(names, dtype=torch.float32))
        self.pictures, self.photographs = pictures, list(photographs.values())
        self.batch, self.photograph_crops, self.local_views = batch, photograph_crops, local_views
        self.temperatures = (teacher_temperature, student_temperature)
        self.momentum = momentum

    @property
    def branch(self) -> Branch:
        """The result of the training: the teacher."""
        return self.teacher

    def loss(self, generator: torch.Generator, progress: float) -> Tensor:
        pair = self._pairs(generator, progress)
        size = pair[0].shape[-1]
        large = torch.cat([self._view(images, size, (0.75, 1.0), generator) for images in pair])
        views = [self.student_head(self.student(large))]
        if self.local_views:
            small = [self._view(pair[i % 2], size // 2, (0.5, 0.75), generator) for i in range(self.local_views)]
            views.append(self.student_head(self.student(torch.cat(small))))
        t_teacher, t_student = self.temperatures
        with torch.no_grad():
            scores = self.teacher_head(self.teacher(large))
            targets = ((scores - self.centre) / t_teacher).softmax(-1).chunk(2)
            self.centre.lerp_(scores.mean(0), 0.1)
        guesses = (torch.cat(views) / t_student).log_softmax(-1).chunk(2 + self.local_views)
        pairs = [
            -(target * guess).sum(-1).mean()
            for i, target in enumerate(targets)
            for j, guess in enumerate(guesses)
            if i != j
        ]
        return torch.stack(pairs).mean()

    def after_step(self, progress: float) -> None:
        momentum = 1 - (1 - self.momentum) * 0.5 * (1 + math.cos(math.pi * progress))
        with torch.no_grad():
            for slow, fast in ((self.teacher, self.student), (self.teacher_head, self.student_head)):
                for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
                    a.lerp_(b, 1 - momentum)

    def _view(
        self, images: Image, size: int, share: tuple[float, float], generator: torch.Generator
    ) -> Float[Tensor, "b 3 side side"]:
        return recolour(random_squares(images, size, share, generator), generator)

    def _pairs(self, generator: torch.Generator, progress: float) -> tuple[Image, Image]:
        """The two drawings of each scene, and two crops of each photograph."""
        crops = self.photograph_crops if self.photographs else 0
        chosen = easy_first(len(self.pictures), progress, self.batch - crops, generator)
        indices = torch.randint(max(1, len(self.photographs)), (crops,), generator=generator).tolist()
        size = self.pictures.shape[-1]
        first, second = (
            torch.cat([drawings, *(random_crop(self.photographs[i], size, generator) for i in indices)])
            for drawings in (self.pictures[chosen].float() / 255).unbind(1)
        )
        return first, second


def easy_first(count: int, progress: float, batch: int, generator: torch.Generator) -> Int[Tensor, " batch"]:
    """Draw `batch` different numbers below `count`, at first only small ones: those of easy scenes, which teach shapes quickly.

    From two thirds of the run on, all numbers are drawn.
    """
    limit = max(batch, round(count * min(1.0, 0.15 + 1.3 * progress)))
    return torch.randperm(min(limit, count), generator=generator)[:batch]
