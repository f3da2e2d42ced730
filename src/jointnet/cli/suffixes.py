"""Suffixes of the files that commands read."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""What counts as a picture in a folder; a file that is named itself may have any suffix."""

ARRAYS = (".npy", ".npz", ".exr")
"""Arrays, as in modalities/array_files.py, whose package imports torch."""
