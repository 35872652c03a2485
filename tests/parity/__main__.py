"""`python -m tests.parity FIXTURE_DIR`."""

from __future__ import annotations

import sys

from tests.parity.compare import main

raise SystemExit(main(sys.argv[1:]))
