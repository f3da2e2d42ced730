"""What is evaluated: our models, peers through their libraries, and classes of a user's own."""
