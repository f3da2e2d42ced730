"""Tests. OpenMP's threads sleep instead of spinning while they wait: beside another program on the same cores that is many times faster."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is loaded, which is after this
