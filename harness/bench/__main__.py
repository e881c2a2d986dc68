"""`python -m harness.bench`, the same as `make bench`."""

import sys

from harness.bench.cost import main

if __name__ == "__main__":
    sys.exit(main())
