"""Forecasts of series of measurements, several steps at once, with the LSTM (article 3.2)."""
