"""Steering from camera frames with PilotNet (article 2.3: autonomous driving)."""
