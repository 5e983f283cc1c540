"""Multi-step forecasts of time series with the LSTM (article 3.2)."""
