"""``python -m prfaas``: the same as ``prfaas``."""

from __future__ import annotations

import sys

from prfaas.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
