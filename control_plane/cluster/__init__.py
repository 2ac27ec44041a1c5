"""Several Triton servers as one: which takes a request, and what happens when it fails."""
