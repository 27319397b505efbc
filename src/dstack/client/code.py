"""The code that goes with a run: whether it changed since the last time, and its snapshot.

An unchanged tree costs one `git ls-files` and one `lstat` per file. What is heavy (hashing, chunking, the wire format)
is imported only when something has changed. A file goes exactly as it is on disk, or it is named and nothing goes.
"""

from __future__ import annotations

from dstack.client.cache import CodeCache, Shipped
from dstack.client.listing import Listing
from dstack.client.repository import RepositoryError
from dstack.client.tree import Tree, largest, look, look_again

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from dstack.client.difference import Difference
    from dstack.client.sent import CodeRef

    Save = Callable[[str, Mapping[str, os.stat_result], str], tuple[CodeRef, Sequence[str]]]
    Confirm = Callable[[int, int, Sequence[tuple[int, str]]], bool]

__all__ = ["CodeCache", "Listing", "Shipped", "ship_code"]

LARGE_SIZE = 500 * 10**6
LARGE_FILES = 50_000
_RACY = 2_000_000_000
"""Nanoseconds. A file that changed this shortly before it was looked at may change again without its time moving."""
_TRIES = 3
"""Saves of a tree that changes meanwhile."""
_NAMED = 10


def ship_code(listing: Listing, cache: CodeCache, commit: str | None, save: Save, confirm: Confirm) -> Shipped:
    """The snapshot of the files that `listing` names, saved now unless an earlier one still holds.

    `save(root, files, cache file)` saves them, given how they were found, and answers with what it could not;
    `confirm(files, bytes, largest)` is asked before much is shipped. `commit` is what their difference is taken from.
    Raises RepositoryError.
    """
    for attempt in range(1, _TRIES + 1):
        tree = look(listing)
        _require_readable({**listing.unreadable, **tree.unreadable})
        known = cache.find(tree.digest, commit)
        if known is not None:
            return _as_before(listing, tree, known, cache, commit)
        confirmed = _confirm(tree, cache.confirmed_size, confirm)
        difference = _differ(listing, tree, commit)
        code, problems = save(listing.root, tree.found, cache.files_path)
        if not problems:
            break
        if attempt == _TRIES or look_again(listing.root, tree).digest == tree.digest:
            raise _not_shipped(problems)
        listing = listing.again()
    else:
        raise AssertionError("the last try ends the loop")
    shipped = _told(listing, tree, cache, code, difference)
    # What changes after the look bears a later time, unless it comes too soon for the file system's clock.
    if tree.newest < tree.looked_at - _RACY:
        cache.remember(tree.digest, commit, shipped, confirmed)
    return shipped


def _as_before(listing: Listing, tree: Tree, known: Shipped, cache: CodeCache, commit: str | None) -> Shipped:
    """What is known of a tree, with what is not part of it looked at anew if need be."""
    if known.surroundings == tree.surroundings and (known.diff is not None or not listing.asks_git):
        return known
    difference = None if known.diff is not None else _differ(listing, tree, commit)
    shipped = _told(listing, tree, cache, known.code, difference)
    if difference is None:
        shipped.diff = known.diff
    cache.remember(tree.digest, commit, shipped, cache.confirmed_size)
    return shipped


def _differ(listing: Listing, tree: Tree, commit: str | None) -> Difference | None:
    if not listing.asks_git:
        return None
    from dstack.client.difference import Difference

    return Difference(listing, tree, commit)


def _told(listing: Listing, tree: Tree, cache: CodeCache, code: CodeRef, difference: Difference | None) -> Shipped:
    """With what a person should know of it."""
    from dstack.client.notes import notes, special_files

    special = cache.special(tree.surroundings)
    if special is None:
        special = special_files(listing, tree)
    found = notes(listing, tree, special)
    diff = difference.text() if difference is not None else None
    if difference is not None and difference.problem:
        found.append(f"the run does not record what differs from the commit: {difference.problem}")
    return Shipped(code, found, tree.surroundings, special, diff)


def _confirm(tree: Tree, confirmed: int, confirm: Confirm) -> int:
    """The most bytes that were confirmed, after asking where that is too little."""
    if (tree.size <= LARGE_SIZE and len(tree.paths) <= LARGE_FILES) or tree.size <= 1.5 * confirmed:
        return confirmed
    if not confirm(len(tree.paths), tree.size, largest(tree, 10)):
        raise RepositoryError(
            f"not shipped: {len(tree.paths)} files, {tree.size} bytes",
            "name what a run does not need in .dstackignore or .gitignore",
        )
    return tree.size


def _require_readable(unreadable: Mapping[str, str]) -> None:
    if unreadable:
        from dstack.client.notes import quoted

        raise _not_shipped([f"{quoted(path)}: {why}" for path, why in sorted(unreadable.items())])


def _not_shipped(problems: Sequence[str]) -> RepositoryError:
    count = f"{len(problems)} files" if len(problems) > 1 else "1 file"
    lines = [f"  {problem}" for problem in problems[:_NAMED]]
    if len(problems) > _NAMED:
        lines.append(f"  and {len(problems) - _NAMED} more")
    return RepositoryError(
        f"the code is not shipped, because of {count}:\n" + "\n".join(lines),
        "make them readable, let nothing write to them meanwhile, or name them in .dstackignore",
    )
