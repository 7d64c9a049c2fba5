"""The agent readiness test: tasks that a model should do with tools, and how its answers are judged."""
