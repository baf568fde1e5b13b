"""What a measurement computes: pure functions of pictures, labels and features."""
