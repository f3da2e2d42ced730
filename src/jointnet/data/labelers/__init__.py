"""Labelers: an RGB picture -> the map of a dense modality (Sec. 3.3)."""
