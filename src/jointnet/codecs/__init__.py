"""Maps <-> the state."""
