"""A small model with DreamSimLoss inside, and its training in one of several processes, which imports this file by name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dreamsim_guidance import DreamSim
from dreamsim_guidance.losses import L1, DreamSimLoss


class Autoencoder(nn.Module):
    """One convolution, and its loss as an attribute, as people write it."""

    def __init__(self, metric: DreamSim) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        self.loss = DreamSimLoss(metric) + 0.1 * L1()

    def forward(self, images: Tensor) -> Tensor:
        return self.loss(self.net(images).sigmoid(), images).mean()


def train_in_parallel(rank: int, world: int, port: int, metric: DreamSim, images: Tensor, folder: Path) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", port, world, is_master=rank == 0)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    model = DistributedDataParallel(Autoencoder(metric).double())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        model(images[rank::world]).backward()
        optimiser.step()
    if rank == 0:
        torch.save(model.module.state_dict(), folder / "state.pt")
    torch.distributed.destroy_process_group()
