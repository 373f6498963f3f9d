"""What lies in the folder of a fine-tuning."""

ADAPTERS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SETTINGS, CURVE, OUTCOME = "settings.json", "loss.csv", "outcome.json"
