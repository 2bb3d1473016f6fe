"""One run: its directory, its result, what makes it the same as another, and where it comes from."""
