"""Data sets with ground truth, as their owners ship them."""
