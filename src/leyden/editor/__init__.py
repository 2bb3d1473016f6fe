"""What an editor and a shell know of `conf/`: schemas of its files, and what can be typed next."""
