# An image for the deployments gpu-docker and gpu-kubernetes of prefect.yaml: a clone with its environment.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /secateur
COPY . .
RUN make .venv/ready
ENV PATH=/secateur/.venv/bin:$PATH
