"""Folders of files, one folder per class: which files are read as which class, and a word on every file that is not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fractionate.data.columns import class_names
from fractionate.data.dividing import PARTS
from fractionate.errors import ConfigError, ResourceError, printable
from fractionate.system.files import irregular

# what operating systems, disks and editors leave behind; it holds no data, and nobody has to hear of it
LITTER = frozenset(
    ("__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "system volume information", "lost+found",
     ".appledouble", ".ds_store", ".spotlight-v100", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
     ".thumbnails", ".ipynb_checkpoints", "__pycache__", ".git", ".gitkeep", ".gitignore", ".gitattributes", ".svn",
     ".directory", ".nomedia", ".localized", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r",
     ".picasa.ini", "picasa.ini")
)  # fmt: skip
LITTER_STARTS = ("._", ".trash", ".nfs", ".fuse_hidden")  # the first holds what a Mac knows of the file next to it
HIDDEN, NO_CLASS = "hidden", "next to the class folders"
LINKED, LINKED_FOLDER = "links that lead out of the folder", "linked folders"


def _litter(name: str) -> bool:
    return name.lower() in LITTER or name.lower().startswith(LITTER_STARTS)


@dataclass
class _Walk:
    """What lies in a folder, collected while it is walked: files with the endings wanted, and all that is left out, by reason."""

    root: Path
    endings: tuple[str, ...]
    links: bool
    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    nested: dict[Path, int] = field(default_factory=dict)

    def leave(self, why: str, path: Path) -> None:
        self.left_out.setdefault(why, []).append(path)

    def entries(self, folder: Path) -> Iterator[Path]:
        """What a folder holds, in the order of names, without litter; links out of the root are left out, hidden things too."""
        for path in _listed(folder):
            if _litter(path.name):
                continue
            if path.name.startswith("."):
                self.leave(HIDDEN, path)
            elif path.is_symlink() and not self.links and not _real(path).is_relative_to(self.root):
                self.leave(LINKED, path)
            else:
                yield path

    def walk(self, folder: Path, above: frozenset[Path] = frozenset()) -> None:
        above |= {_real(folder)}
        for path in self.entries(folder):
            if path.is_dir():
                if _real(path) in above or (path.is_symlink() and not self.links):
                    self.leave(LINKED_FOLDER, path)
                    continue
                before = len(self.files)
                self.walk(path, above)
                if len(above) == 1 and len(self.files) > before:
                    self.nested[path] = len(self.files) - before
            elif kind := irregular(path):
                self.leave(kind, path)
            elif path.suffix.lower() in self.endings:
                self.files.append(path)
            else:
                self.leave(path.suffix.lower() or "no ending", path)

    def warn(self, what: str) -> None:
        """One warning for all that is not read, with counts and names; one for folders within classes, which are."""
        shown = printable(str(self.root), 200)
        if self.nested:
            warnings.warn(
                f"{shown}: {sum(self.nested.values()):,} {what} lie in folders within the class folders, and are read as of the "
                f"class above: {_some(self.root, list(self.nested))}",
                stacklevel=5,
            )
        if self.left_out:
            count = sum(map(len, self.left_out.values()))
            found = "; ".join(
                f"{len(paths):,} {why} ({_some(self.root, paths)})" for why, paths in sorted(self.left_out.items())
            )
            linked = LINKED in self.left_out or LINKED_FOLDER in self.left_out
            warnings.warn(
                f"{shown}: {count:,} entries are not read: {found}\n  expected: regular files of {', '.join(self.endings)}\n"
                f"  fix:      convert, rename or remove them{'; links=True follows links' if linked else ''}",
                stacklevel=5,
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # a loop of links leads somewhere too; Path.resolve raises


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise ResourceError(f"cannot read the folder {printable(str(folder), 200)}: {error.strerror}") from error


def _some(root: Path, paths: Sequence[Path]) -> str:
    shown = [printable(os.path.relpath(path, root)) for path in paths[:3]]
    return ", ".join(shown) + (", …" if len(paths) > 3 else "")


def folders_in(folder: Path, *, links: bool = False) -> tuple[Path, ...]:
    """The folders in a folder, in the order of their names, without hidden ones and litter.

    Raises `ConfigError` where there is no such folder, and for a link that leads out of it, unless `links` allows that.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {printable(str(folder), 200)}",
            got=irregular(folder) or "a file",
            fix=f"a path is read from the folder the command runs in, {Path.cwd()}",
        )
    root = _real(folder)
    walk = _Walk(root, (), links)
    found = tuple(path for path in walk.entries(root) if path.is_dir())
    if linked := [path for path in walk.left_out.get(LINKED, ()) if path.is_dir()]:
        raise ConfigError(
            f"{printable(str(folder), 200)} holds links that lead out of it",
            expected="folders of its own",
            got=_some(root, linked),
            fix="put the folders here, or allow it: links=True",
        )
    return tuple(folder / path.name for path in found)


def division(folder: Path, *, links: bool = False) -> dict[str, Path]:
    """The folders of the parts, where a folder has them (`train`, and `val` or `test`); else the folder itself as the only part.

    A folder `train` that holds folders and no files is a part, not a class. Raises `ConfigError` where two folders are the same
    part, or others lie next to them.
    """
    inside = folders_in(folder, links=links)
    named = [path for path in inside if path.name.lower() in PARTS]
    train = [path for path in named if PARTS[path.name.lower()] == "train"]
    if not train or (len(named) < 2 and not _folders_alone(train[0])):
        return {"train": folder}
    parts = {PARTS[path.name.lower()]: path for path in named}
    if len(parts) < len(named) or len(named) < len(inside):
        raise ConfigError(
            f"{printable(str(folder), 200)} is divided in no clear way",
            expected="folders train, val and test alone, or a folder for each class",
            got=", ".join(printable(path.name) for path in inside[:10]),
        )
    return parts


def _folders_alone(folder: Path) -> bool:
    inside = [path for path in _listed(folder) if not (_litter(path.name) or path.name.startswith("."))]
    return bool(inside) and all(path.is_dir() for path in inside)


def class_folders(parts: dict[str, Path], *, links: bool = False) -> tuple[str, ...]:
    """The classes, as they are shown: the folders in the training part, in the order of their names.

    Raises `ConfigError` for one elsewhere alone.
    """
    listed = {
        part: class_names(path.name for path in folders_in(folder, links=links)) for part, folder in parts.items()
    }
    found = {part: set(names) for part, names in listed.items()}
    for part, names in found.items():
        if names - found["train"]:
            raise ConfigError(
                f"{part} has classes that are not in train: {', '.join(sorted(names - found['train'])[:10])}",
                fix="move some of their examples to train",
            )
    if len(found["train"]) < 2:
        raise ConfigError(
            f"{printable(str(parts['train']), 200)} does not hold classes",
            expected="a folder for each class, two at least",
            got=", ".join(listed["train"]) or "no folders",
        )
    return tuple(sorted(listed["train"]))


def files_of_classes(
    folder: Path,
    classes: Sequence[str],
    endings: tuple[str, ...],
    *,
    what: str,
    links: bool = False,
    allow_empty: bool = False,
) -> tuple[tuple[Path, int], ...]:
    """The files of each class, by its name as shown, with one of the endings, and its number; folders in a class are walked.

    One warning counts and names all that is not read: other endings, hidden files, pipes and devices, links that lead out of
    `folder`; litter of operating systems is passed over. Raises `ConfigError` where there are no files at all, and for a class
    without any, unless `allow_empty`.
    """
    found: list[tuple[Path, int]] = []
    empty: list[str] = []
    whole = _Walk(_real(folder), endings, links)
    for path in whole.entries(whole.root):
        if not path.is_dir() and path.suffix.lower() in endings:
            whole.leave(NO_CLASS, path)
    there = folders_in(whole.root, links=links)
    folders = dict(zip(class_names(path.name for path in there), there, strict=True))
    for number, name in enumerate(classes):
        walk = _Walk(whole.root, endings, links, left_out=whole.left_out, nested=whole.nested)
        if name in folders:
            walk.walk(folders[name])
        found += [(folder / file.relative_to(whole.root), number) for file in sorted(walk.files)]
        empty += [name] * (not walk.files)
    unread = "; ".join(f"{len(paths):,} {why}" for why, paths in sorted(whole.left_out.items()))
    if not found or (empty and not allow_empty):
        raise ConfigError(
            f"there are no {what} in {printable(str(folder), 200)}"
            if not found
            else f"classes without {what}: {', '.join(empty[:10])}",
            expected=f"a folder for each class with files of {', '.join(endings)}",
            got=f"{len(classes)} folders" + (f", and unread: {unread}" if unread else ""),
            fix="convert their files, or remove the folders" if found else None,
        )
    whole.warn(what)
    return tuple(found)
