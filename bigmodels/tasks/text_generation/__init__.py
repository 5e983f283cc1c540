"""Text generation with the LSTM or the Transformer (article 4.2 and 4.3)."""
