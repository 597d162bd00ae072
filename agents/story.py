"""The whole story on one folder: collect, encode, remember, dream, evolve, test, report.

Start reading at `tell`. Each chapter calls the public API with a folder of its own and continues what it finds there,
so the same call after a kill goes on where it stopped. The single commands tell one chapter each.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

import rollouts
from agents.agent import Agent
from agents.controller import LinearController
from agents.display import bar, console, duration
from agents.evaluation import Report, evaluate
from agents.evolution import evolve
from agents.settings import Collecting, DreamEvolving, GameEvolving, Remembering, RunSettings, Seeing, check
from rollouts import policies
from rollouts.policies import Policy
from worldmodel import FRMDN, RMDN, VAE, Memory, WorldModel, fit, seeded
from worldmodel.checkpoints import atomic, load_weights, read_json, write_json

POLICIES: dict[str, Policy] = {"smooth": rollouts.smooth_random, "uniform": rollouts.uniform}
MAY_CHANGE = ("workers", "game.generations", "game.target")
"""Settings that a run may be continued with other values of."""


@dataclass(frozen=True)
class Run:
    """A run folder and what lies where in it."""

    folder: Path

    @property
    def rollouts_folder(self) -> Path:
        """The store of real episodes."""
        return self.folder / "rollouts"

    @property
    def world_folder(self) -> Path:
        """The trained world model."""
        return self.folder / "world"

    def store(self) -> rollouts.Store:
        """The real episodes."""
        if not self.rollouts_folder.is_dir():
            raise ValueError(f"{self.folder} has no rollouts yet: worldmodel collect ENV --out {self.folder}")
        return rollouts.Store(self.rollouts_folder)

    def vae(self) -> VAE:
        """The trained eye."""
        path = self.folder / "vae" / "weights.safetensors"
        if not path.exists():
            raise ValueError(f"{self.folder} has no trained VAE yet: worldmodel train vae {self.folder}")
        vae = VAE(**read_json(path.with_name("settings.json"))["model_settings"])
        load_weights(vae, path)
        return vae.eval()

    def world(self) -> WorldModel:
        """The trained world model."""
        if not (self.world_folder / "config.json").exists():
            raise ValueError(f"{self.folder} has no trained memory yet: worldmodel train memory {self.folder}")
        return WorldModel.load(self.world_folder).eval()

    def controller(self, where: str) -> LinearController:
        """The controller evolved in the "game" or in the "dream"."""
        path = self.folder / f"evolve-{where}" / "controller.safetensors"
        if not path.exists():
            raise ValueError(
                f"{self.folder} has no controller evolved in the {where} yet: worldmodel evolve {self.folder}"
            )
        return LinearController.load(path)

    def reports(self) -> dict[str, Report]:
        """The tests that were made, by name."""
        return {path.stem: Report.load(path) for path in sorted((self.folder / "tests").glob("*.json"))}

    def evolution_steps(self, where: str) -> int:
        """Steps that evolution in the "game" or in the "dream" took, tests of its mean included."""
        path = self.folder / f"evolve-{where}" / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        return sum(row.get("steps", 0) + row.get("check_steps", 0) for row in rows)

    def timings(self) -> dict[str, float]:
        """Seconds that each chapter took, over all sittings."""
        path = self.folder / "timings.json"
        return read_json(path) if path.exists() else {}

    @contextlib.contextmanager
    def chapter(self, name: str) -> Iterator[None]:
        """Add a block's wall clock to ``timings.json``."""
        began = time.monotonic()
        try:
            yield
        finally:
            timings = self.timings()
            timings[name] = round(timings.get(name, 0.0) + time.monotonic() - began, 2)
            write_json(self.folder / "timings.json", timings)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out of the folder while a block runs.

        Raises:
            ValueError: another process works in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"{self.folder} is in use by another process: wait for it, or use another --out"
                ) from None
            yield


def tell(settings: RunSettings, folder: str | os.PathLike[str]) -> dict[str, Report]:
    """Tell the whole story into ``folder``; continue it where it stopped.

    Raises:
        ValueError: a setting is out of range, or the folder belongs to another configuration.
    """
    check(settings)
    run = Run(Path(folder))
    with run.locked():
        remember_settings(settings, run.folder / "config.yaml")
        play_in = settings.training_env or settings.env
        collect(run, play_in, settings.collect, settings.seed, settings.workers, settings.env_options)
        train_vae(run, settings.vae, settings.seed)
        train_memory(run, settings.memory, settings.seed)
        if settings.dream.generations:
            evolve_dream(run, settings.dream, settings.seed)
        if settings.game.generations:
            evolve_game(run, play_in, settings.game, settings.seed, settings.workers, settings.env_options)
        with run.chapter("test"):
            reports = test(run, settings)
        from agents.report import write_report  # matplotlib and PyAV load here, not with every command

        with run.chapter("report"):
            write_report(run, settings)
    return reports


def collect(
    run: Run, env: str, settings: Collecting, seed: int, workers: int, env_options: dict[str, Any]
) -> rollouts.Store:
    """Chapter 1: real episodes."""
    policy = POLICIES.get(settings.policy)
    if policy is None:
        if not Path(settings.policy).is_dir():
            raise ValueError(
                f"policy must be one of {', '.join(POLICIES)} or the folder of an agent, got {settings.policy!r}"
            )
        agent = Agent.load(settings.policy)
        policy = Agent(agent.world, agent.controller, settings.exploration)
    if not (run.rollouts_folder / "metadata.json").exists():
        plan = rollouts.estimate(
            env,
            policy,
            settings.episodes,
            seed=seed,
            workers=workers,
            out=run.rollouts_folder,
            max_steps=settings.max_steps,
            env_options=env_options,
        )
        console.print(f"collect {env}: {plan}", markup=False)
    with run.chapter("collect"), bar(f"collect {env}", "episodes") as progress:
        return rollouts.collect(
            env,
            policy,
            settings.episodes,
            seed=seed,
            workers=workers,
            out=run.rollouts_folder,
            max_steps=settings.max_steps,
            env_options=env_options,
            progress=progress,
        )


def train_vae(run: Run, settings: Seeing, seed: int) -> VAE:
    """Chapter 2: the eye."""
    frames = run.store().frames()
    with seeded(seed):
        vae = VAE(settings.latent, settings.free_bits)
    with run.chapter("train vae"), bar("train vae", "updates") as progress:
        return fit(
            vae,
            frames,
            updates=settings.updates,
            batch=settings.batch,
            lr=settings.lr,
            patience=settings.patience,
            seed=seed,
            out=run.folder / "vae",
            progress=progress,
        )


def train_memory(run: Run, settings: Remembering, seed: int) -> WorldModel:
    """Chapter 3: the memory. Encodes every frame once, then trains from the latents alone."""
    store, vae = run.store(), run.vae()
    with run.chapter("encode"), bar("encode frames", "frames") as progress:
        store.latents(vae, progress=progress)
    inputs, outputs = vae.latent + store.actions, vae.latent
    sizes = (settings.hidden, settings.mixtures, settings.rank)
    with seeded(seed):
        density: RMDN | FRMDN = (
            RMDN(inputs, outputs, *sizes)
            if settings.model == "rmdn"
            else FRMDN(inputs, outputs, *sizes, couplings=settings.couplings, conditional=settings.conditional)
        )
        memory = Memory(density)
    sequences = store.sequences(vae, length=settings.length, targets=settings.targets)
    with run.chapter("train memory"), bar("train memory", "updates") as progress:
        fit(
            memory,
            sequences,
            updates=settings.updates,
            batch=settings.batch,
            lr=settings.lr,
            patience=settings.patience,
            seed=seed,
            out=run.folder / "memory",
            progress=progress,
        )
        world = WorldModel(vae, memory, discrete=store.discrete)
        world.save(run.world_folder)
    return world


def evolve_dream(run: Run, settings: DreamEvolving, seed: int) -> LinearController:
    """Chapter 4: evolution in dreams."""
    world = run.world()
    fitness = rollouts.dreamed(
        world, run.store().latents(world.vae), settings.horizon, settings.dreams, settings.temperature
    )
    with run.chapter("evolve in dreams"), bar("evolve in dreams", "generations") as progress:
        return evolve(
            LinearController.sized(world),
            fitness,
            seed=seed,
            generations=settings.generations,
            population=settings.population,
            sigma=settings.sigma,
            out=run.folder / "evolve-dream",
            progress=progress,
        )


def evolve_game(
    run: Run, env: str, settings: GameEvolving, seed: int, workers: int, env_options: dict[str, Any]
) -> LinearController:
    """Chapter 5: evolution in the real game."""
    world = run.world()
    with run.chapter("evolve in the game"), bar("evolve in the game", "generations") as progress:
        latest: list[Any] = [0, settings.generations, ""]

        def alive(done: int, total: int, note: str) -> None:
            progress(latest[0], latest[1], f"{latest[2]} [{done}/{total} episodes]".strip())

        def generation(done: int, total: int, note: str) -> None:
            latest[:] = [done, total, note]
            progress(done, total, note)

        common: dict[str, Any] = {"workers": workers, "lanes": settings.lanes, "env_options": env_options}
        common |= {"max_steps": settings.max_steps, "progress": alive}
        return evolve(
            LinearController.sized(world),
            rollouts.played(env, world, settings.episodes, patience=settings.patience, **common),
            check=rollouts.played(env, world, settings.check_episodes, **common),
            seed=seed,
            generations=settings.generations,
            population=settings.population,
            sigma=settings.sigma,
            check_every=settings.check_every,
            target=settings.target,
            out=run.folder / "evolve-game",
            progress=generation,
        )


def test(run: Run, settings: RunSettings) -> dict[str, Report]:
    """Chapter 6: the test of every controller, and of the random policy, on fresh seeds of the official game."""
    players: dict[str, Callable[[], Agent | Policy]] = {"random": lambda: rollouts.uniform}
    for where, wanted in (("dream", settings.dream.generations), ("game", settings.game.generations)):
        if wanted:
            players[where] = lambda where=where: Agent(run.world(), run.controller(where))  # type: ignore[misc]
    for name, make in players.items():
        path, player = run.folder / "tests" / f"{name}.json", make()
        if path.exists() and _is_of(Report.load(path), player, settings):
            continue
        with bar(f"test {name}", "episodes") as progress:
            report = evaluate(
                player,
                settings.env,
                settings.test.episodes,
                settings.test.seed,
                workers=settings.workers,
                env_options=settings.env_options | settings.test_options,
                max_steps=settings.test.max_steps,
                policy_name=name,
                progress=progress,
            )
        real, dreamed = (run.evolution_steps(where) for where in ("game", "dream"))
        if isinstance(player, Agent):
            test = f"--episodes {report.n} --seed {report.seeds[0]}"
            report = replace(
                report,
                real_steps=run.store().steps + (real if name == "game" else 0),
                dream_steps=dreamed if name == "dream" else 0,
                command=f"worldmodel evaluate {run.folder} --where {name} {test}",
            )
        report.save(path)
        console.print(str(report), markup=False)
    return run.reports()


def _is_of(report: Report, player: Agent | Policy, settings: RunSettings) -> bool:
    """Whether a test was of this player, on these episodes."""
    wanted = (policies.name_of(player), settings.test.episodes, settings.test.seed)
    return (report.agent, report.n, report.seeds[0]) == wanted


def remember_settings(settings: RunSettings, path: Path) -> None:
    """Write the resolved settings, or compare them with those of the run that is to be continued."""
    plain = asdict(settings)
    if path.exists():
        try:
            before = _flat(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, AttributeError) as error:
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
        for name, value in _flat(plain).items():
            if name not in MAY_CHANGE and before.get(name) != value:
                raise ValueError(
                    f"{path.parent} holds a run with {name} = {before.get(name)!r}, asked for {value!r}: "
                    "use another --out, or the same settings"
                )
    with atomic(path) as aside:
        aside.write_text(f"# {versions()}\n{yaml.safe_dump(plain, sort_keys=False)}", encoding="utf-8")


def versions() -> str:
    """What this runs on: our version and commit, and those of the libraries that results depend on."""
    names = ("worldmodel", "torch", "numpy", "gymnasium", "cma")
    words = [f"{name} {metadata.version(name)}" for name in names]
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    with contextlib.suppress(OSError):
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        words += [f"commit {commit}"] if commit else []
    return ", ".join(words)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names; options of environments stay whole."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and not name.endswith("_options"):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def summary(run: Run) -> list[tuple[str, str]]:
    """What a finished run has to say: rows of (chapter, figures)."""
    rows = [(name, duration(seconds)) for name, seconds in run.timings().items()]
    return rows + [(f"score, {name}", str(report)) for name, report in run.reports().items()]
