"""An exported student on the Hugging Face Hub: its folder as a repository, through huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fractionate.errors import ConfigError, ResourceError, extra, printable, reason
from fractionate.system.paths import as_path

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
UPLOADED = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "README.md", "data.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template.*",
    "preprocessor_config.json", "model.onnx", "model.pt2",
)  # fmt: skip


def push_to_hub(
    folder: Path | str,
    repository: str,
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
    message: str = "A student by fractionate",
) -> str:
    """Upload an exported student as a model of the hub; gives its address. Checkpoints, logs and examples stay here.

        push_to_hub("out/student", "me/small-tagger")

    Args:
        folder: What `export_student` wrote, or the folder `student` of a run file.
        repository: OWNER/NAME; made where it is not there.
        private: Of a repository that is made.
        token: Of an account that may write; left out, the one of `hf auth login` or of HF_TOKEN.
        endpoint: Of a hub of one's own; left out, HF_ENDPOINT or huggingface.co.
        message: Of the commit.

    Returns:
        The address of the model.

    Raises:
        ConfigError: for a folder without a student, a name that is none, a hub that refuses, and where HF_HUB_OFFLINE forbids it.
        ResourceError: where the hub cannot be reached.
        MissingExtraError: without huggingface_hub.

    Example:
        import torch
        from torch import nn
        from fractionate.models import export_student, push_to_hub

        push_to_hub(export_student(nn.Linear(8, 4), "student"), "me/small-classifier")
    """
    place = as_path(folder, "folder")
    if not (place / "config.json").is_file() or not any(place.glob("*.safetensors")):
        raise ConfigError(
            f"{printable(str(folder))} holds no exported student",
            expected="config.json and weights in .safetensors",
            fix="export_student(student, folder), or the folder `student` of a run file",
        )
    if not NAME.fullmatch(repository):
        raise ConfigError("invalid name of a repository", expected="OWNER/NAME", got=printable(repr(repository)))
    hub = _library()
    if hub.constants.HF_HUB_OFFLINE:
        raise ConfigError(
            "nothing can be uploaded: HF_HUB_OFFLINE is set", fix="unset HF_HUB_OFFLINE where there is a network"
        )
    api = hub.HfApi(endpoint=endpoint, token=token)
    bars = hub.utils.are_progress_bars_disabled()
    hub.utils.disable_progress_bars()
    try:
        if not api.repo_exists(repository):
            api.create_repo(repository, private=private)
        files = [f.name for f in place.iterdir() if f.is_file() and any(map(f.match, UPLOADED))]  # none of its folders
        api.upload_folder(repo_id=repository, folder_path=place, allow_patterns=files, commit_message=message)
    except hub.errors.HfHubHTTPError as error:
        raise ConfigError(
            f"the hub refuses {repository}",
            got=reason(error, 300),
            fix="hf auth login, with a token that may write there",
        ) from error
    except OSError as error:
        raise _failed(repository, error) from error
    except Exception as error:  # its client of HTTP raises errors of its own where there is no network
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests")):
            raise
        raise _failed(repository, error) from error
    finally:
        if not bars:
            hub.utils.enable_progress_bars()
    return f"{api.endpoint}/{repository}"


def _failed(repository: str, error: Exception) -> ResourceError:
    return ResourceError(
        f"{repository} could not be uploaded: the hub cannot be reached",
        got=reason(error, 300),
        fix="see whether there is a network (and HF_ENDPOINT, proxies); the same call again starts over",
    )


def _library() -> Any:
    with extra("hf", "uploading needs huggingface_hub"):
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.utils
    return huggingface_hub
