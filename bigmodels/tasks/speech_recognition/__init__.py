"""Speech recognition with a deep recurrent network and CTC (article 1.1 and 2.3)."""
