"""Agents and rollouts go to the Hub and come back: equal files, equal actions; nothing else is uploaded or downloaded."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest
import yaml

from tests.agents.hub_server import TOKEN, hub_server, sha
from tests.command_line import exit_code, refused
from worldmodel import rollouts
from worldmodel.agents import Agent, load_pretrained
from worldmodel.agents.hub import pull, push
from worldmodel.agents.pretrained import HOME

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


@pytest.fixture
def agent(tmp_path):
    folder = tmp_path / "car"
    shutil.copytree(HOME / "car-racing-dream", folder)
    (folder / "notes.pkl").write_bytes(b"not uploaded")
    return folder


@pytest.fixture
def store(tmp_path):
    return rollouts.collect("CartPole-v1", "random", 2, seed=1, max_steps=3, out=tmp_path / "rollouts")


def front_matter(card: bytes) -> dict:
    return yaml.safe_load(re.match(r"---\n(.*?)\n---\n", card.decode(), re.DOTALL)[1])


def test_an_agent_goes_there_and_back(hub, agent, tmp_path):
    assert push(agent, "user/car", private=True).startswith(hub.url)
    files = hub.files("user/car")
    assert {path.rpartition(".")[2] for path in files} == {"json", "safetensors", "md"}
    assert hub.private["model", "user/car"]
    about = front_matter(files["README.md"])
    assert about["library_name"] == "worldmodel"
    [result] = about["model-index"][0]["results"]
    report = json.loads((agent / "report.json").read_text())
    assert str(int(report["mean"])) in result["metrics"][0]["value"]
    assert (agent / "README.md").read_text() in files["README.md"].decode()

    folder = pull("user/car", tmp_path / "pulled")
    assert {path.name for path in folder.iterdir()} == set(files)
    for name in set(files) - {"README.md"}:
        assert (folder / name).read_bytes() == (agent / name).read_bytes(), name
    frame = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    actions = []
    for one in (Agent.load(folder), load_pretrained("car-racing-dream")):
        one.reset(seed=1)
        actions.append(one.act(frame))
    assert np.array_equal(*actions)


@pytest.mark.slow
def test_what_was_pulled_can_be_pushed_again(hub, agent, tmp_path):
    push(agent, "user/car")
    push(pull("user/car", tmp_path / "pulled"), "user/car")
    assert len(hub.commits["model", "user/car"]) == 2
    first, second = hub.commits["model", "user/car"]
    assert {name: data for name, data in first.items() if name != "README.md"} == {
        name: data for name, data in second.items() if name != "README.md"
    }
    assert front_matter(second["README.md"]) == front_matter(first["README.md"])
    assert second["README.md"].count(b"library_name") == 1


@pytest.mark.slow
def test_rollouts_are_a_dataset(hub, store, tmp_path):
    push(store.path, "user/cart")
    assert all(
        re.fullmatch(r"metadata\.json|README\.md|shards/\d+\.h5", name) for name in hub.files("user/cart", "dataset")
    )
    pulled = rollouts.Store(pull("user/cart", tmp_path / "pulled"))
    assert pulled.identity == store.identity
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(pulled.episodes(), store.episodes(), strict=True))


@pytest.mark.slow
def test_files_of_other_kinds_are_not_downloaded(hub, agent, tmp_path):
    push(agent, "user/car")
    hub.files("user/car").update({"evil.pkl": b"x", "sub/evil.py": b"x", "pytorch_model.bin": b"x"})
    assert {path.suffix for path in pull("user/car", tmp_path / "pulled").rglob("*")} == {
        ".json",
        ".safetensors",
        ".md",
    }


@pytest.mark.slow
def test_an_old_revision_can_be_pulled(hub, agent, tmp_path):
    push(agent, "user/car")
    (agent / "report.json").unlink()
    hub.commits["model", "user/car"].append({"README.md": b"emptied"})
    with pytest.raises(ValueError, match=r"controller\.safetensors"):
        pull("user/car", tmp_path / "new")
    assert (pull("user/car", tmp_path / "old", revision=sha(1)) / "report.json").exists()
    with pytest.raises(ValueError, match="revision"):
        pull("user/car", tmp_path / "none", revision="missing")


@pytest.mark.slow
def test_nothing_is_overwritten_or_left_half(hub, agent, tmp_path):
    push(agent, "user/car")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("kept")
    with pytest.raises(ValueError, match="out"):
        pull("user/car", kept)
    assert [path.name for path in kept.iterdir()] == ["mine"]
    hub.broken = 1
    with pytest.raises(ValueError, match="user/car"):
        pull("user/car", tmp_path / "stopped")
    assert not (tmp_path / "stopped").exists()
    assert pull("user/car", tmp_path / "stopped").is_dir()
    hub.files("user/car")["vae.safetensors"] = b"damaged"
    with pytest.raises(ValueError, match=r"user/car.*vae\.safetensors"):
        pull("user/car", tmp_path / "damaged")
    assert not [path for path in tmp_path.iterdir() if "damaged" in path.name]


def test_an_interrupted_download_is_never_mixed_with_another(hub, agent, tmp_path):
    push(agent, "user/car")
    hub.broken = 1
    with pytest.raises(ValueError, match="user/car"):
        pull("user/car", tmp_path / "mix")
    (agent / "starts.safetensors").unlink()
    (agent / "README.md").write_text("another")
    push(agent, "user/other")
    found = {path.name for path in pull("user/other", tmp_path / "mix").iterdir()}
    assert found == set(hub.files("user/other")) and "starts.safetensors" not in found


def test_pulled_rollouts_hold_no_file_of_this_machine_and_all_episodes(hub, store, tmp_path):
    push(store.path, "user/rollouts")
    (secret := tmp_path / "secret").write_bytes(b"SECRET!!" * 3)
    files, name = hub.files("user/rollouts", "dataset"), f"shards/{store.shards[0].path.name}"
    whole = files[name]
    for attack in ("external", "link", "not a number"):
        (path := tmp_path / "shard.h5").write_bytes(whole)
        with h5py.File(path, "r+") as file:
            if attack == "external":
                del file["episode_0/rewards"]
                external = [(str(secret), 0, 12)]
                file["episode_0"].create_dataset("rewards", (3,), np.float32, external=external)
            elif attack == "link":
                del file["episode_0/rewards"]
                file["episode_0/rewards"] = h5py.ExternalLink(str(store.shards[0].path), "/episode_0/rewards")
            else:
                file["episode_0/rewards"][0] = np.nan
        files[name] = path.read_bytes()
        with pytest.raises(ValueError, match=r"user/rollouts"):
            pull("user/rollouts", tmp_path / attack)
    files[name] = whole
    assert pull("user/rollouts", tmp_path / "good").is_dir()


def test_a_file_of_this_machine_is_not_blamed_on_the_hub(hub, agent, tmp_path):
    push(agent, "user/car")
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError)) as error:
        pull("user/car", tmp_path / "file" / "out")
    assert hub.url not in str(error.value)


def test_a_damaged_agent_is_not_uploaded(hub, agent):
    (agent / "controller.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="controller"):
        push(agent, "user/car")
    assert not hub.requests


@pytest.mark.parametrize("repo_id", ["a/b/c", "user/..", "-x/y", "user/na me", ""])
def test_wrong_names_are_refused(hub, agent, tmp_path, repo_id):
    for call in (lambda: push(agent, repo_id), lambda: pull(repo_id, tmp_path / "out")):
        with pytest.raises(ValueError, match="repo_id"):
            call()
    assert not hub.commits


def test_errors_of_the_hub_are_one_line(hub, agent, tmp_path, monkeypatch, capsys):
    assert "user/none" in refused(capsys, "pull", "user/none", "--out", str(tmp_path / "x"))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "HF_TOKEN" in refused(capsys, "push", str(agent), "user/car")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(capsys, "push", str(agent), "user/car")
    assert "HF_HUB_OFFLINE" in refused(capsys, "pull", "user/car", "--out", str(tmp_path / "x"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "agent" in refused(capsys, "push", str(tmp_path), "user/car")


@pytest.mark.slow  # the client tries again for half a minute
def test_a_hub_that_cannot_be_reached_is_named(agent, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "127.0.0.1:9" in refused(capsys, "push", str(agent), "user/car")
    assert "127.0.0.1:9" in refused(capsys, "pull", "user/car", "--out", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_the_commands(hub, agent, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code("push", str(agent), "user/car") == 0
    assert hub.url in capsys.readouterr().out
    assert exit_code("pull", "user/car") == 0
    assert Agent.load(tmp_path / "runs" / "car")
    assert "runs/car" in refused(capsys, "pull", "user/car")
