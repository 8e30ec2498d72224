"""Connections, bodies and answers: bounded on the way in, kept until they are out."""
