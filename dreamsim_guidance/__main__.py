"""`python -m dreamsim_guidance` is the console script `dreamsim-guidance`."""

import sys

from dreamsim_guidance.cli import main

if __name__ == "__main__":
    sys.exit(main())
