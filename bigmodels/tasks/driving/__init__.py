"""Steering from a camera's frame with PilotNet (article 2.3: autonomous driving)."""
