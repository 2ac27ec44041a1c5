"""Answers kept for equal requests: `ResponseCache` in one of the stores."""
