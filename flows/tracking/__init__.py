"""MLflow as a mirror of dvc.lock and results/: what a run holds, and how it is written, found, compared and registered."""
