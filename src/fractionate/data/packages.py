"""Real data from the operating system's packages: found where they are installed, else unpacked into a cache, always checked.

`apt-get download` and `dpkg-deb` need no rights and install nothing. On other systems put the files where `FRACTIONATE_DATA`
points.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from fractionate.errors import DamagedError, ResourceError
from fractionate.system.paths import as_path


def cache_folder() -> Path:
    """Where unpacked data are kept: FRACTIONATE_DATA, else the user's cache folder."""
    own = os.environ.get("FRACTIONATE_DATA")
    if own:
        return as_path(own, "FRACTIONATE_DATA")
    return as_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "XDG_CACHE_HOME") / "fractionate"


def package_file(package: str, path: str, sha256: str) -> Path:
    """A file of a Debian package: installed, cached, or downloaded and unpacked now.

    Args:
        package: The name of the package.
        path: The place below `/` that the package gives the file.
        sha256: Of its content.

    Returns:
        The path of the file.

    Raises:
        ResourceError: where it cannot be had.
        DamagedError: where its content is not what `sha256` says.

    Example:
        from fractionate.data.language_sets import FILES
        from fractionate.data import package_file

        path = package_file("wordnet-base", "usr/share/wordnet/data.adj", FILES["adj"])
    """
    for found in (Path("/") / path, cache_folder() / package / path):
        if found.is_file():
            return _checked(found, sha256)
    fix = f"apt-get install {package}, or put the file at {cache_folder() / package / path}"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise ResourceError(f"{path} is not here and there is no apt-get to fetch it", fix=fix)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
        steps = (["apt-get", "download", package], ["dpkg-deb", "-x", "", "unpacked"])
        for step in steps:
            step = [str(next(Path(folder).glob("*.deb"))) if part == "" else part for part in step]
            done = subprocess.run(step, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
            if done.returncode:
                output = done.stderr.strip().splitlines()
                raise ResourceError(
                    f"could not fetch {package}", got=output[-1] if output else "", fix=f"apt-get update; {fix}"
                )
        fetched = _checked(Path(folder) / "unpacked" / path, sha256)
        kept = cache_folder() / package / path
        kept.parent.mkdir(parents=True, exist_ok=True)
        fetched.replace(kept)
    return kept


def _checked(path: Path, sha256: str) -> Path:
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no such file"
    if found != sha256:
        raise DamagedError(
            f"{path} is not the file it should be",
            expected=f"sha256 {sha256}",
            got=found,
            fix="remove it and run again",
        )
    return path
