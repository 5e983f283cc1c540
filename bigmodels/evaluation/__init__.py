"""What held-out figures rest on: intervals, boxes, forecasts, the judge of made images."""
