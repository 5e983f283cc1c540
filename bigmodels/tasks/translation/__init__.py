"""Translation with the encoder-decoder Transformer (article 2.1, 2.3 and 3.3)."""
