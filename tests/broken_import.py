"""A module that lacks another."""

import no_such_requirement  # type: ignore[import-not-found]  # noqa: F401
