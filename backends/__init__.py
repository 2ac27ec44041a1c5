"""What runs inside Triton's Python-backend processes: the tensor contract and the engines."""
