"""The model's process: one engine, one thread, a socket to the front end and a view of the arena."""
