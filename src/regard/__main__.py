"""`python -m regard`: the command line, for launchers that start modules (`torchrun -m regard …`)."""

from __future__ import annotations

import sys

from regard.cli import main

sys.argv[0] = "regard"  # runs record what one would type
sys.exit(main())
