"""The API around fakes, fresh for each test."""

import pytest

from tests.app.http.fakes import Edge


@pytest.fixture
def edge() -> Edge:
    """Return the API with an empty service."""
    return Edge()
