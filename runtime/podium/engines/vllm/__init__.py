"""vLLM's async engine, and vLLM's own OpenAI application in front of it, inside the worker.

`engine` is what the worker calls; `arguments` judges what the resource asks for before vLLM sees it; `call` speaks ASGI
to the application; `measure` folds vLLM's statistics into plain numbers; `guard` ends vLLM's processes with the worker.
Nothing here is imported before the environment of `engine` is set: vLLM reads it at its import.
"""
