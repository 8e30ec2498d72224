"""What a model's author programs against. Imports nothing heavy."""
