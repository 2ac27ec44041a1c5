"""The Triton model that all engines share: requests in, responses out."""
