"""Export of text encoders and sequence classifiers, and their entries for Triton."""
