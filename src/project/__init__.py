"""The worked example, which is yours: read it, change it, replace it. The engine that runs it is `leyden`."""
