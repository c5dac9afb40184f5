"""Tests that run curl, as readers of the documents do. With CI=true it must be there: then they fail without it."""

import os
import shutil

import pytest

needs_curl = pytest.mark.skipif(
    shutil.which("curl") is None and os.environ.get("CI") != "true", reason="curl is not installed"
)
