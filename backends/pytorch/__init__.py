"""The PyTorch engine: Hugging Face transformers models."""
