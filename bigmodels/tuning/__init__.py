"""The search of a task's settings."""
