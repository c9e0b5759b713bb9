"""The command line, one file for each command."""

from dreamsim_guidance.cli.entry import main

__all__ = ["main"]
