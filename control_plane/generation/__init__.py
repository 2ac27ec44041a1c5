"""Generation: the one service behind every route that generates text."""
