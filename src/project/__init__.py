"""The worked example: read it, change it, replace it with your own work. The library that runs it is `leyden`."""
