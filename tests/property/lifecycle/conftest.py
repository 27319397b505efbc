"""The models' own assertions tell both sides, as those of tests do."""

import pytest

for _name in ("agents", "machine", "model", "servers", "stored"):
    pytest.register_assert_rewrite(f"tests.property.lifecycle.{_name}")
