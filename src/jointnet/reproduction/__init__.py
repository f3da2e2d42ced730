"""The paper's claims, tested: baselines trained alike, measured alike, and one table of what holds."""
