"""Command lines: absl flags and nothing else, one thin file a command."""
