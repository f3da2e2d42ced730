"""The forward process: what loss and sampler add to a clean state, and what the network should return for it."""
