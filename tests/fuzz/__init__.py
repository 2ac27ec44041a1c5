"""Programs that look for inputs which break the server. They are no tests: run them by hand."""
