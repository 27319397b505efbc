"""Where an embedded server's database lies: in the home, unless the home is on a network file system.

SQLite's write-ahead log needs memory shared between processes of one host, and locks that network file systems only
promise: there the database is per host, in a folder that the person is told of.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

NETWORK = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs afs 9p ceph glusterfs lustre gpfs beegfs orangefs fuse.sshfs fuse.glusterfs "
    "fuse.ceph fuse.s3fs fuse.rclone ncpfs ocfs2 gfs2 davfs fuse.davfs2".split()
)
"""File system types, as /proc/mounts names them."""


def database_folder(home: Path, mounts: Path = Path("/proc/mounts"), base: Path = Path("/var/tmp")) -> Path:  # noqa: S108 - made 0700 and its owner checked
    """The folder for the database of `home`, made when missing. Raises PermissionError when somebody else has it."""
    kind = file_system(home, mounts)
    if kind not in NETWORK:
        return home / "server"
    name = hashlib.sha256(os.fsencode(os.path.realpath(home))).hexdigest()[:16]
    folder = base / f"dstack-{os.getuid()}" / name
    for part in (folder.parent, folder):
        part.mkdir(mode=0o700, exist_ok=True)
        found = part.lstat()
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{part} is not this user's alone; remove it, or set DSTACK_SERVER_DATABASE_URL")
    return folder


def file_system(path: Path, mounts: Path) -> str:
    """The type of the file system that `path` lies on, empty where the system does not tell."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    real = os.path.realpath(path)
    best, kind = "", ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Spaces and the like are written as octal escapes (proc(5)).
        point = fields[1].encode("latin-1", "surrogateescape").decode("unicode_escape")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
