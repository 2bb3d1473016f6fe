"""A run made anew from its directory: its code, its configuration, its versions."""
