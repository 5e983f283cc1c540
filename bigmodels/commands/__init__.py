"""What the commands do, as functions without flags."""
