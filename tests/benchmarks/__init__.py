"""What the gateway costs. `README.md` says what is measured and how."""
