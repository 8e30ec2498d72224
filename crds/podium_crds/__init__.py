"""Podium's contracts: the resource types, the assignment a pod is given and the report it gives back.

Imported by the operator and by the runtime; imports neither. Depends on pydantic and yaml only.
"""
