"""Prompts -> the text that a denoiser reads."""
