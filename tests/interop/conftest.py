"""What more than one file of the interop tests needs."""

from pathlib import Path

import pytest

from .processes import nest_folder

__all__ = ["nest"]


@pytest.fixture(scope="session")
def nest() -> Path:
    """The folder of the NestJS peers."""
    return nest_folder()
