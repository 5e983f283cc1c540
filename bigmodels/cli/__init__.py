"""The command line: absl flags, one thin module per command."""
