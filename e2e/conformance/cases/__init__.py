"""All cases, by topic: importing this package registers them in registry.CASES."""

from . import (  # noqa: F401
    binary,
    classification,
    configuration,
    contents,
    datatypes,
    errors,
    health,
    inference,
    malformed,
    metadata,
    repository,
    statistics,
    transport,
)
from .registry import CASES  # noqa: F401
