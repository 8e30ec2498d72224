"""The Podium operator: watches both kinds, plans, and applies what they need.

Every reconcile pass is level-triggered: it is told a key, never what happened to it.
"""
