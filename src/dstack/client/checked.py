"""A repository's workflow files, checked by the server against the code that a run would be sent with."""

from __future__ import annotations

import base64
import errno
import functools
import os
from collections.abc import Mapping, Sequence

from dstack.client.api import Api
from dstack.client.planned import Validation
from dstack.sdk.requirement_files import MOST_BYTES

MOST_FILES = 50_000
MOST_SENT = 32 << 20
"""Bytes of all files that are sent for a check."""


class Code:
    """The files below `root` that a run would be sent with."""

    def __init__(self, root: str) -> None:
        self._root = os.path.realpath(root)

    @functools.cached_property
    def paths(self) -> Sequence[str] | None:
        """None for more than are worth sending for a check."""
        from dstack.client.listing import Listing
        from dstack.client.tree import look

        paths = look(Listing(self._root)).paths
        # A name that is no text cannot be named by a workflow either.
        return [path for path in paths if path.isprintable()] if len(paths) <= MOST_FILES else None

    def read(self, path: str, most: int) -> bytes | None:
        """A file, also behind links; None where a link leads to no file of the code.

        Raises OSError for one that cannot be read, or has more than `most` bytes.
        """
        place = os.path.realpath(os.path.join(self._root, path))
        if os.path.relpath(place, self._root) not in self._known:
            return None
        try:
            with open(place, "rb") as file:
                data = file.read(most + 1)
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise
        if len(data) > most:
            raise OSError(f"{path} has more than {most} bytes")
        return data

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.paths or ())


def look(api: Api, files: Mapping[str, str], code: Code) -> Validation:
    """What the server says of the workflow `files` and, as far as a plan would read it, of what is in the `code`."""
    contents: dict[str, str | None] = {}
    refused: set[str] = set()
    left = MOST_SENT
    found = api.validate(files, code=code.paths)
    # Files name files: each round brings some that were not asked for before, so there is a last one.
    while asked := [path for path in found.get("reads", []) if path not in contents and path not in refused]:
        for path in asked:
            try:
                data = code.read(path, min(MOST_BYTES, left))
            except OSError:
                refused.add(path)  # the run itself will tell, when its code is read
                continue
            left -= len(data or b"")
            contents[path] = base64.b64encode(data).decode() if data is not None else None
        found = api.validate(files, code=code.paths, contents=contents)
    return found
