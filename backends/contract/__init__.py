"""The wire contract: what the gateway and a model's process say to each other."""
