"""The command line. OpenMP's threads spin only shortly while they wait: beside another program on the same cores that is many times
faster than its default, and alone about as fast."""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # read when torch is loaded, which is after this
