"""HTTP: the data port's routes, the admin port, and the server that owns neither signals nor the drain."""
