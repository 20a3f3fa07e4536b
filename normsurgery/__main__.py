"""`python -m normsurgery`, and so `accelerate launch -m normsurgery`."""

import sys

from normsurgery.cli import main

if __name__ == "__main__":
    sys.exit(main())
