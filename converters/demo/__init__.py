"""Training of the demo model, a toy Qwen2 language model that lets a newcomer try Triad offline."""
