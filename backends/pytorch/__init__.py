"""The PyTorch engine, for models of Hugging Face transformers."""
