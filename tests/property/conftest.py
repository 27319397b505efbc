"""Generated tests have no deadline for one example: how long it takes depends on what else the machine does."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dstack", deadline=None)
settings.load_profile("dstack")
