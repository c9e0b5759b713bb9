"""What the tests of guidance share: some warnings of others that nobody here can mend."""

from __future__ import annotations

import pytest

OTHERS_WARNINGS = (
    "ignore:__array_wrap__ must accept:DeprecationWarning",  # diffusers' schedulers hand tensors to numpy 2
    "ignore:__array__ implementation:DeprecationWarning",  # the same, torch 2.6
    "ignore:Should have ta>=t0:UserWarning",  # torchsde, at the last step
)


def pytest_configure(config: pytest.Config) -> None:
    for warning in OTHERS_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)
