"""RAM-network evaluation."""
