"""Text encoders and sequence classifiers."""
