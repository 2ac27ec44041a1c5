"""Commands for people who work on Triad: generated pages, measures of the code, pinned packages."""
