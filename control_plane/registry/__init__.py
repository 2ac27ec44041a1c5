"""Models: which there are, and how one comes into Triton."""
