"""Agents and rollouts on the Hugging Face Hub: `push` uploads a folder with its card, `pull` downloads and checks it.

An agent is a model repository with safetensors and JSON, rollouts are a dataset repository with HDF5 shards; no other files
are uploaded or downloaded, and none of them holds code. Optional: ``pip install 'worldmodel[hub]'``.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from worldmodel.agents.agent import Agent
from worldmodel.agents.pretrained import PretrainedAgent, resolve_agent
from worldmodel.agents.viewer.fidelity import Fidelity
from worldmodel.io.files import error_context
from worldmodel.io.paths import folder_path
from worldmodel.messages import format_number
from worldmodel.rollouts import Store
from worldmodel.start_states import StartStates

Kind = Literal["agent", "rollouts"]
REPOSITORIES = {"agent": "model", "rollouts": "dataset"}
"""The Hub's type of repository of each kind of folder."""
FILES = {
    "agent": ("config.json", "*.safetensors", "report.json", "fidelity.json", "README.md"),
    "rollouts": ("metadata.json", "shards/*.h5", "README.md"),
}
"""Patterns of the files of each kind."""


class Folder(NamedTuple):
    """A folder that can be uploaded."""

    path: Path
    kind: Kind


def push(path: str | os.PathLike[str], repo_id: str, *, private: bool = False) -> str:
    """Upload an agent or rollouts to the Hub, as a new commit of a repository.

    Args:
        path: Path of a run folder (its best agent), of an agent's folder, of rollouts, or the name of a pretrained agent.
        repo_id: Name of the repository, "user/name"; it is created if it does not exist.
        private: Whether a new repository is private.

    Returns:
        Address of the repository.

    Raises:
        ValueError: There is nothing to upload, a file is damaged, or the Hub cannot be reached or refuses.
    """
    (hub, api), folder = _hub(), _folder(path)
    _load(folder)
    found = sorted(
        {file for pattern in FILES[folder.kind] for file in folder.path.glob(pattern)} - {folder.path / "README.md"}
    )
    operations = [
        hub.CommitOperationAdd(path_in_repo=file.relative_to(folder.path).as_posix(), path_or_fileobj=file)
        for file in found
    ]
    operations.append(
        hub.CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card(folder, repo_id).encode("utf-8"))
    )
    where = {"repo_id": repo_id, "repo_type": REPOSITORIES[folder.kind]}
    with _errors(api, repo_id):
        address = api.create_repo(**where, private=private, exist_ok=True)
        api.create_commit(**where, operations=operations, commit_message=f"Upload {folder.kind} with worldmodel")
    return str(address)


def pull(repo_id: str, out: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """Download an agent or rollouts from the Hub, and check that they can be loaded.

    Args:
        repo_id: Name of the repository, "user/name".
        out: Path of the new folder.
        revision: Branch, tag or commit. None: the newest.

    Returns:
        Path of the folder.

    Raises:
        ValueError: ``out`` is not empty, the repository does not hold an agent or rollouts or is damaged, or the Hub cannot be
            reached or refuses.
    """
    (_, api), out = _hub(), folder_path(out, "out")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out must be a new or empty folder, got {out}")
    with _errors(api, repo_id):
        kind, commit = _contents(api, repo_id, revision)
        # A draft of its own, so that an interrupted download continues, and never with files of another commit.
        draft = out.with_name(f".{out.name}.{repo_id.replace('/', '-')}-{commit}.download")
        api.snapshot_download(
            repo_id, repo_type=REPOSITORIES[kind], revision=commit, local_dir=draft, allow_patterns=list(FILES[kind])
        )
    try:
        _load(Folder(draft, kind), every_episode=True)
    except ValueError as error:
        shutil.rmtree(draft)
        raise ValueError(f"{repo_id} is not a whole folder of {kind}: {error}") from error
    shutil.rmtree(draft / ".cache", ignore_errors=True)  # what huggingface_hub knows about the download
    if out.exists():
        out.rmdir()
    draft.rename(out)
    return out


def _hub() -> tuple[Any, Any]:
    """Import huggingface_hub, which is optional; returns the module and its client of ``HF_ENDPOINT``.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(f"the Hub needs {error.name}: pip install 'worldmodel[hub]'") from None
    return huggingface_hub, huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _contents(api: Any, repo_id: str, revision: str | None) -> tuple[Kind, str]:
    """Return what a repository holds, and the commit of a revision."""
    from huggingface_hub.errors import RepositoryNotFoundError

    kind: Kind = "agent"
    try:
        found = api.repo_info(repo_id, repo_type="model", revision=revision)
    except RepositoryNotFoundError:
        kind, found = "rollouts", api.repo_info(repo_id, repo_type="dataset", revision=revision)
    needed = "controller.safetensors" if kind == "agent" else "metadata.json"
    if needed not in [file.rfilename for file in found.siblings or ()]:
        raise ValueError(f"{repo_id} holds no {kind}: it has no {needed}")
    return kind, str(found.sha)


def _folder(path: str | os.PathLike[str]) -> Folder:
    """Find the agent or the rollouts of a path.

    Raises:
        ValueError: There are none.
    """
    agent = resolve_agent(str(path), pretrained=False)
    if isinstance(agent, PretrainedAgent):
        return Folder(agent.folder, "agent")
    folder = agent.existing().folder
    if (folder / "agent" / "controller.safetensors").exists():
        return Folder(folder / "agent", "agent")
    if (folder / "metadata.json").exists():
        return Folder(folder, "rollouts")
    raise ValueError(
        f"{folder} has no agent/, which `worldmodel run` writes, and holds no rollouts; RUN/rollouts uploads a run's rollouts"
    )


def _load(folder: Folder, every_episode: bool = False) -> None:
    """Load what a folder holds; of rollouts the index, or every episode.

    Raises:
        ValueError: A file is missing or damaged.
    """
    if folder.kind == "rollouts":
        store = Store(folder.path)
        if store.damaged or not len(store):
            raise ValueError(next(iter(store.damaged.values()), f"{folder.path} has no episodes"))
        store.validate_episodes(len(store), "it is not whole")
        for _ in store.episodes() if every_episode else ():
            pass
        return
    Agent.load(folder.path)
    if (folder.path / "starts.safetensors").exists():
        StartStates.load(folder.path)
    if (folder.path / "report.json").exists():
        PretrainedAgent(folder.path, folder.path).report()
    Fidelity.of(folder.path)


class _Content(NamedTuple):
    """What a card says: metadata for the Hub's search, text, and the commands that use the folder."""

    metadata: dict[str, Any]
    text: list[str]
    commands: list[str]


def card(folder: Folder, repo_id: str) -> str:
    """Return the card of a repository: metadata for the Hub's search, the score or the size, and how to use it.

    A ``README.md`` in the folder is its text; one that has metadata already is the card.
    """
    name = repo_id.rpartition("/")[2]
    own = folder.path / "README.md"
    with error_context(own):
        text = own.read_text(encoding="utf-8") if own.exists() else ""
    if text.startswith("---\n"):
        return text
    content = _of_agent(folder.path, name) if folder.kind == "agent" else _of_rollouts(folder.path)
    metadata = {"library_name": "worldmodel", "tags": ["worldmodel", "world-model", "reinforcement-learning"]}
    front = [f"{key}: {json.dumps(value)}" for key, value in (metadata | content.metadata).items()]
    use = [
        f"worldmodel pull {repo_id} --out runs/{name}",
        *(f"worldmodel {one} runs/{name}" for one in content.commands),
    ]
    lines = ["---", *front, "---", "", text.rstrip() or "\n".join([f"# {name}", "", *content.text]), ""]
    return "\n".join([*lines, "```bash", "pip install 'worldmodel[hub]'", *use, "```", ""])


def _of_agent(folder: Path, name: str) -> _Content:
    """Describe an agent."""
    agent = Agent.load(folder)
    text = [
        f"A world model and a controller, `{agent.controller!r}`, of the toolkit worldmodel. The files hold no code."
    ]
    metadata: dict[str, Any] = {"pipeline_tag": "reinforcement-learning"}
    if (folder / "report.json").exists():
        report = PretrainedAgent(folder, folder).report()
        score = f"{format_number(report.mean)} ± {format_number(report.std)}"
        text += ["", f"Return in {report.env} {json.dumps(report.env_options)}: {score}, n = {report.n}."]
        metric = {"type": "mean_reward", "value": score}
        task = {"type": "reinforcement-learning"}
        result = {"task": task, "dataset": {"name": report.env, "type": report.env}, "metrics": [metric]}
        metadata["model-index"] = [{"name": name, "results": [result]}]
    return _Content(metadata, text, ["evaluate", "play"])


def _of_rollouts(folder: Path) -> _Content:
    """Describe rollouts."""
    store = Store(folder)
    text = [f"{len(store)} episodes, {store.steps:,} steps of {store.env}, policy {store.metadata.get('policy')}."]
    return _Content({"task_categories": ["reinforcement-learning"]}, text, ["inspect"])


@contextmanager
def _errors(api: Any, repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub into one line.

    Raises:
        ValueError: The Hub cannot be reached or refuses.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled as error:
        raise ValueError("the Hub is not asked while HF_HUB_OFFLINE is set: unset it") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(f"there is no repository {repo_id}, or it is private: `hf auth login` or HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{repo_id} does not have this revision") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        advice = ": `hf auth login`, or a token with write access in HF_TOKEN" if status in (401, 403) else f": {error}"
        raise ValueError(f"the Hub refuses {repo_id} (status {status}){advice.splitlines()[0]}") from error
    except errors.HFValidationError as error:
        raise ValueError(f"repo_id must be the name of a repository, user/name, got {repo_id!r}") from error
    except (OSError, errors.LocalEntryNotFoundError) as error:
        if isinstance(error, OSError) and error.filename is not None:  # a file of this machine
            raise ValueError(f"{error.filename}: {error.strerror}") from error
        raise ValueError(f"the Hub cannot be reached at {api.endpoint}: {error}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise
        raise ValueError(f"the Hub cannot be reached at {api.endpoint}: {error}") from error
