"""The ground that all else stands on: what a configuration may be, whose mistake an error is."""
