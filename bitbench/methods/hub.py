"""Models from the Hugging Face hub: what they would download, and the download. Never imports torch.

The hub is HF_ENDPOINT; HF_HUB_OFFLINE and the Hugging Face cache are respected by huggingface_hub itself.
"""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bitbench.facts.errors import LoadError
from bitbench.facts.messages import Progress

_REACH_S = 1.8
_LIST_TIMEOUT_S = 15.0
_WEIGHTS = ".safetensors"
_PICKLE = (".bin",)
_BESIDE = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_NOT_BESIDE = ("README", "LICENSE", "onnx/", "original/", "training_args")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of a revision that would be loaded: names with sizes in bytes."""

    repo: str
    commit: str
    sizes: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """All of them together."""
        return sum(self.sizes.values())


def is_offline() -> bool:
    """Whether the environment forbids the network."""
    return any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in _OFFLINE)


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_reachable() -> bool:
    """Whether the hub answers within two seconds."""
    if is_offline():
        return False
    answers: list[bool] = []
    # In a thread of its own: looking up a name has no timeout.
    thread = threading.Thread(target=lambda: answers.append(_answers(endpoint())), daemon=True)
    thread.start()
    thread.join(_REACH_S)
    return bool(answers and answers[0])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_REACH_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code in (
            401,
            404,
            405,
        )  # a mirror below a path answers so at its root; a refusing proxy 403 or 407
    except (OSError, ValueError):
        return False


def files(repo: str, allow_pickle: bool = False) -> HubFiles:
    """Commit and files of the main revision, asked of the hub. Raises LoadError in one line."""
    from huggingface_hub import HfApi

    with _HubErrors(repo):
        info = HfApi(endpoint=endpoint()).model_info(repo, files_metadata=True, timeout=_LIST_TIMEOUT_S)
    sizes = {s.rfilename: s.size or 0 for s in info.siblings or () if _is_wanted(s.rfilename)}
    weights = {name: size for name, size in sizes.items() if name.endswith(_WEIGHTS)}
    pickles = {s.rfilename: s.size or 0 for s in info.siblings or () if s.rfilename.endswith(_PICKLE)}
    if not weights and pickles and not allow_pickle:
        raise LoadError(
            f"{repo} has only pickles ({next(iter(pickles))}): only safetensors are loaded unless --allow-pickle"
        )
    return HubFiles(repo, str(info.sha), sizes if weights else sizes | pickles)


def exists(repo: str) -> bool:
    """Whether the hub has that model. Raises LoadError where the hub can't be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _HubErrors(repo):
        try:
            HfApi(endpoint=endpoint()).model_info(repo, timeout=_LIST_TIMEOUT_S)
        except RepositoryNotFoundError:
            return False
    return True


def _is_wanted(name: str) -> bool:
    if name.startswith(_NOT_BESIDE) or "/" in name:
        return False
    return name.endswith(_WEIGHTS) or name.endswith(_BESIDE)


def cached_folder(repo: str) -> Path | None:
    """The snapshot of the main revision in the Hugging Face cache, whole or not; None without one. No network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None


def download(wanted: HubFiles, progress: Callable[[Progress], None]) -> Path:
    """Bring the files into the Hugging Face cache; the answer is their folder. Raises LoadError in one line."""
    from huggingface_hub import hf_hub_download

    folder = Path()
    done = 0
    with _HubErrors(wanted.repo):
        for name, size in wanted.sizes.items():
            bar = _bar(partial(_tell, progress, name, wanted.num_bytes, done))
            path = hf_hub_download(wanted.repo, name, revision=wanted.commit, endpoint=endpoint(), tqdm_class=bar)
            folder = Path(path).parent
            done += size
            _tell(progress, name, wanted.num_bytes, done)
    _remember_main(folder, wanted.commit)
    return folder


def _remember_main(folder: Path, commit: str) -> None:
    """Note the commit as the main revision, as huggingface_hub does for a branch, so that it is found offline."""
    ref = folder.parent.parent / "refs" / "main"
    ref.parent.mkdir(exist_ok=True)
    ref.write_text(commit, encoding="utf-8")


def _tell(progress: Callable[[Progress], None], name: str, total: int, before: int, now: int = 0) -> None:
    progress(Progress(stage="download", detail=name, done=before + now, total=total))


def _bar(report: Callable[[int], None]) -> Any:
    """A silent progress bar that reports the bytes of one file so far."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": False, "file": _Nowhere()})

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.unit == "B":
                report(int(self.n))
            return bool(shown)

    return Bar


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


class _HubErrors:
    """Turns what huggingface_hub raises into a LoadError of one line."""

    def __init__(self, repo: str) -> None:
        self._repo = repo

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LoadError) or not isinstance(error, Exception):
            return
        from huggingface_hub import errors

        if isinstance(error, errors.GatedRepoError):
            raise LoadError(
                f"{self._repo} is gated: accept its terms on {endpoint()}, then log in with `hf auth login`"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise LoadError(
                f"no model {self._repo} on {endpoint()}, or it is private and needs `hf auth login`"
            ) from error
        if isinstance(error, errors.HFValidationError):
            raise LoadError(f"{self._repo} is not a hub id: {_first_line(error)}") from error
        reason = "the environment says offline" if is_offline() else _first_line(error)
        raise LoadError(
            f"{self._repo} is not in the Hugging Face cache and {endpoint()} can't be asked ({reason}): "
            "try demo, shape:NAME or a local folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
