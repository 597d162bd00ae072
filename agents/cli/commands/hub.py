"""The commands ``worldmodel push`` and ``pull``: agents and rollouts on the Hugging Face Hub."""

from jsonargparse import Namespace

from worldmodel.agents.config.parser import Parser
from worldmodel.agents.progress import answers, busy, next_hint
from worldmodel.io.paths import folder_path


def build_push(parser: Parser) -> None:
    """Upload an agent or rollouts to the Hugging Face Hub, with a card: safetensors, JSON and HDF5 only.

    Of a run folder, its best agent (RUN/agent) is uploaded; RUN/rollouts uploads its rollouts as a dataset. Log in with
    `hf auth login` or HF_TOKEN. A repository that exists gets a new commit.

      worldmodel push runs/car-racing-quick me/car-racing
    """
    parser.add_argument("folder", type=str, help="Path of a run folder, of an agent's folder, or of rollouts.")
    parser.add_argument("repo_id", type=str, help="Name of the repository, user/name.")
    parser.add_argument("--private", action="store_true", help="Whether a new repository is private.")


def push(options: Namespace) -> None:
    """Upload a folder and print its address."""
    from worldmodel.agents import hub

    with busy(f"uploading {options.folder}"):
        address = hub.push(options.folder, options.repo_id, private=options.private)
    answers.print(address, markup=False)


def build_pull(parser: Parser) -> None:
    """Download an agent or rollouts from the Hugging Face Hub into a new folder, and check the files.

    The same command continues a stopped download.
    """
    parser.add_argument("repo_id", type=str, help="Name of the repository, user/name.")
    parser.add_argument("--out", type=str | None, default=None, help="Path of the new folder. None: runs/NAME.")
    parser.add_argument("--revision", type=str | None, default=None, help="Branch, tag or commit. None: the newest.")


def pull(options: Namespace) -> None:
    """Download a folder and print its path."""
    from worldmodel.agents import hub

    name = options.repo_id.rpartition("/")[2]
    out = hub.pull(options.repo_id, folder_path(options.out or f"runs/{name}", "out"), revision=options.revision)
    answers.print(f"{options.repo_id} in {out}", markup=False)
    next_hint("worldmodel", "inspect", out)
