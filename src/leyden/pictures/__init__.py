"""Pictures of a run and what is measured on its way: nothing here changes a bit of its result."""
