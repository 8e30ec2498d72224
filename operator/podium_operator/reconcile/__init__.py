"""One level-triggered pass per resource: observe, plan, report, act. It knows the key and nothing of what woke it."""
