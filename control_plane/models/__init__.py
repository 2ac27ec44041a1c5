"""Models: the repository that holds their files, and the health of those that are served."""
