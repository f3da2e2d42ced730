"""Prompts -> text embeddings: one file a kind of text encoder."""
