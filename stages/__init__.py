"""One command a stage; `dvc.yaml` chains them."""
