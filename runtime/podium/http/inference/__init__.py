"""What answers inference: the front door, the express lane, and each protocol."""
