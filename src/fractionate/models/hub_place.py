"""Where a model of transformers is: a folder, a GGUF file, an installed package, the hub; read without running its code."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fractionate.errors import ConfigError, FractionateError, MissingExtraError, printable, reason
from fractionate.system.paths import as_path
from fractionate.system.registry import nearest

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
PACKAGE = "package:"


@contextmanager
def library() -> Iterator[Any]:
    """transformers, without its progress bars and reports: what they say becomes an error here, or is of no use to a reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import transformers
        except (ImportError, RuntimeError) as error:  # a torchvision that does not fit torch raises the latter
            raise MissingExtraError(
                "models by hf(...) need transformers", got=reason(error), fix='pip install "fractionate[hf]"'
            ) from error
        logging: Any = transformers.utils.logging
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        try:
            logging.set_verbosity(logging.CRITICAL)
            logging.disable_progress_bar()
            yield transformers
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


@dataclass(frozen=True)
class Place:
    """Where a model is: a folder or a name of the hub, and a GGUF file in it where it is one."""

    source: str
    gguf: str | None = None
    remote: bool = False

    def read(self, auto: Any, **settings: Any) -> Any:
        """`auto.from_pretrained` of this place; a name of the hub is looked for on this machine before it is fetched."""
        more = settings | ({} if self.gguf is None else {"gguf_file": self.gguf})
        fetched = self.remote and not self.is_folder and not os.environ.get("HF_HUB_OFFLINE")
        tries = [True, False] if fetched else [True]
        for local in tries:
            try:
                with redirect_stderr(io.StringIO()):  # bars that its settings do not turn off
                    return auto.from_pretrained(self.source, local_files_only=local, trust_remote_code=False, **more)
            except FractionateError:
                raise
            except ImportError as error:
                raise MissingExtraError(
                    f"reading {self.source} needs a package that is not installed", got=reason(error),
                    fix="pip install gguf" if self.gguf else 'pip install "fractionate[hf]"',
                ) from error  # fmt: skip
            except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
                if local is not tries[-1]:
                    continue
                raise self._unread(error) from error
        raise AssertionError

    @property
    def is_folder(self) -> bool:
        """A folder that is not there was meant: the hub has no owner "models", the folder that run files of `init` name."""
        return self.source.startswith("models/")

    def config(self) -> Any:
        """Its config; not to be changed."""
        return _kept(self, "AutoConfig", self._files())

    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return _kept(self, "AutoTokenizer", self._files())

    def _files(self) -> tuple[tuple[str, int, int], ...]:
        """The files of a folder as they are now; a name of the hub stays what it is while a command runs."""
        folder = Path(self.source)
        if self.remote or not folder.is_dir():
            return ()
        found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)

    def _unread(self, error: Exception) -> ConfigError:
        shown = printable(self.source, 200)
        if "trust_remote_code" in str(error):
            return ConfigError(
                f"{shown} needs Python code that comes with it, which is never run",
                expected="a checkpoint of an architecture that transformers has",
                got=reason(error),
                fix="load it in a module of your own: model: my_module:build",
            )
        if self.remote and self.is_folder:
            return ConfigError(
                f"there is no model {shown}",
                expected="a folder with config.json, as save_pretrained writes it",
                got=f"nothing of that name in {Path.cwd()}",
                fix="write the folder of your model in its place",
            )
        if self.remote:
            return ConfigError(
                f"there is no model {shown} on this machine, and it cannot be fetched from the Hugging Face hub",
                got=reason(error),
                fix=f"fetch it where there is a network, hf download {shown} --local-dir FOLDER, and write hf('FOLDER')",
            )
        return ConfigError(
            f"{shown} cannot be read as a model of transformers",
            expected="a folder with config.json and model.safetensors, as save_pretrained writes it; or a .gguf file",
            got=reason(error),
        )


@lru_cache(maxsize=8)
def _kept(place: Place, kind: Literal["AutoConfig", "AutoTokenizer"], files: Any) -> Any:
    """Read once: a study builds many students of one config, and a GGUF file takes seconds."""
    with library() as found:
        if place.gguf is not None and kind == "AutoTokenizer":  # which parses the file twice, to find this same class
            return place.read(found.PreTrainedTokenizerFast)
        return place.read(getattr(found, kind))


def find_place(name: str) -> Place | None:
    """Where a model of this name is; None for an architecture of transformers. Raises `ConfigError` for none of these."""
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE))
    path = as_path(name, "the name of a model")
    if path.is_file() and path.suffix.lower() == ".gguf":
        return Place(str(path.parent), path.name)
    if path.is_dir():
        return Place(str(path))
    with library() as found:
        known = list(found.CONFIG_MAPPING.keys())
    if name in known:
        return None
    if HUB_NAME.fullmatch(name) and not name.startswith("."):
        return Place(name, remote=True)
    near = nearest(name, known, 0.7)
    raise ConfigError(
        f"there is no model {printable(name, 200)}",
        expected="a folder with config.json, owner/model of the hub, or an architecture of transformers",
        got=f"nothing of that name in {Path.cwd()}",
        fix=f"did you mean {near!r}?" if near else None,
    )


def _in_package(name: str) -> Place:
    """The one model that an installed package brings; it is looked for in its files, and never imported."""
    package, _, inside = name.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"there is no installed package {printable(package)!r}", fix=f"pip install {package.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations))) / inside
    if root.is_file() and root.suffix.lower() == ".gguf":
        return Place(str(root.parent), root.name)
    every = sorted((path.parent for path in root.rglob("config.json")), key=lambda path: (len(path.parts), path))
    folders = [path for path in every if len(path.parts) == len(every[0].parts)]  # parts of a model may lie below it
    files = sorted(root.rglob("*.gguf")) if not folders else []
    if len(folders) == 1:
        return Place(str(folders[0]))
    if len(files) == 1:
        return Place(str(files[0].parent), files[0].name)
    found = [str(path.relative_to(root)) for path in (*folders, *files)]
    raise ConfigError(
        f"the package {package} does not bring one model",
        expected="one config.json or .gguf file",
        got=", ".join(found[:10]) or "none",
        fix=f"hf('package:{name}/{found[0]}')" if found else None,
    )
