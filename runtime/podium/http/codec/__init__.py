"""Bodies to tensors and back, here or in a process of their own."""
