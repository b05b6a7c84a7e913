"""Offline data: one :class:`Dataset`, and the formats, names and scores it is read from and written to.

Names are loaded when first used, so that importing this package imports neither torch nor h5py.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
