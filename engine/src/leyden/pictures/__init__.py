"""Pictures and measurements of a run; none of them changes its result."""
