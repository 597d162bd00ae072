"""OpenMP: a low spin count for waiting threads, unless the user sets one."""

import os
import subprocess
import sys

import pytest

PROBE = """
import importlib.abc, os, sys
class First(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            raise ModuleNotFoundError("seen", name=name)
sys.meta_path.insert(0, First())
try:
    exec({statement!r})
    import torch
except ModuleNotFoundError as error:
    assert error.name == "torch"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "given"),
    [
        ("from worldmodel import VAE", "7"),
        ("from worldmodel import VAE", None),
        ("from worldmodel import rollouts", None),
        ("import worldmodel.envs.dream_env", None),
        ("import worldmodel.rollouts.policy.controllers", None),
        ("import worldmodel.agents.cli.main", None),
    ],
)
def test_spin_count_is_set_before_torch_is_loaded(statement, given):
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    env |= {} if given is None else {"GOMP_SPINCOUNT": given}
    args = [sys.executable, "-c", PROBE.format(statement=statement)]
    done = subprocess.run(args, capture_output=True, text=True, check=False, env=env)
    assert done.stdout.split() == [given or "1000"], done.stderr
