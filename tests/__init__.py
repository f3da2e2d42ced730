import jointnet.cli  # noqa: F401 - before torch: it keeps OpenMP's threads from spinning beside other programs
