"""Studies: short YAML files that expand into the tables of params.yaml, which dvc.yaml turns into stages."""
