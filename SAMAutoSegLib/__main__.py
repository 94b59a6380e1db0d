"""``python -m SAMAutoSegLib`` and the command ``samautoseg``."""

import sys

from SAMAutoSegLib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
