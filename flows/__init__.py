"""The graph on workers, its results in MLflow, and the check that they can be had again. Nothing below imports this."""
