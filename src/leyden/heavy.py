"""What takes seconds to import, without a search for garbage meanwhile or ever after: there is none in modules."""

import gc

gc.disable()
try:
    from leyden import build
finally:
    gc.freeze()
    gc.enable()

__all__ = ["build"]
