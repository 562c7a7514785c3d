"""Search weightless (RAM) neural networks with Optuna."""
