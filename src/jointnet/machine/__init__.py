"""What runs this: processor, code and processes."""
