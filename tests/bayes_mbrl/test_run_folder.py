import json
import pathlib
import shutil
import stat
import subprocess

import pytest

from bayes_mbrl import run_folder
from bayes_mbrl.config import Component, Config, Rollout
from bayes_mbrl.errors import UserError
from bayes_mbrl.run_folder import MetricsLog, load_run, new_run_folder


def _config(env: str = "Pendulum-v1") -> Config:
    def component(section: str, name: str) -> Component:
        return Component(section, name, {})

    return Config(
        env=env,
        algorithm=component("algorithm", "mpc"),
        posterior=component("posterior", "mean-field"),
        dynamics=component("dynamics", "network"),
        planner=component("planner", "cem"),
        objective=component("objective", "mean"),
        propagation=component("propagation", "ts-infinity"),
        rollout=Rollout(),
    )


@pytest.mark.parametrize(
    ("env", "safe"),
    [
        ("Pendulum-v1", "Pendulum-v1"),
        ("bayes_mbrl/LinearGaussian-v0", "LinearGaussian-v0"),
        ("my.module:Fähre v2", "my.module-F-hre-v2"),
    ],
)
def test_the_default_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, env: str, safe: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_run_folder(None, _config(env))
    assert folder.parent == pathlib.Path("runs")
    time, rest = folder.name[:15], folder.name[15:]
    assert time.replace("-", "").isdigit()
    assert rest == f"-{safe}-mean-field"


def test_a_taken_name_gets_a_counter(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Frozen(run_folder.datetime.datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Frozen":
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(run_folder.datetime, "datetime", Frozen)
    names = [new_run_folder(None, _config()).name for _ in range(3)]
    assert names == [f"20260102-030405-Pendulum-v1-mean-field{end}" for end in ("", "-2", "-3")]


def test_the_configuration_is_recorded(tmp_path: pathlib.Path) -> None:
    folder = new_run_folder(tmp_path / "a" / "b", _config(), command="bayes-mbrl run --out a/b")
    text = (folder / "config.yaml").read_text()
    assert text.startswith("env: Pendulum-v1\n")
    assert "command: bayes-mbrl run --out a/b\n" in text
    assert [entry.name for entry in folder.iterdir()] == ["config.yaml"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("full", "file"):
        with pytest.raises(UserError, match=r"exists and is not empty: choose another --out, or .* resume"):
            new_run_folder(tmp_path / name, _config())
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    assert new_run_folder(tmp_path / "empty", _config()) == tmp_path / "empty"
    with pytest.raises(UserError, match="a part of the path is a file"):
        new_run_folder(tmp_path / "file" / "run", _config())


def test_a_folder_that_cannot_be_made(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "mkdir", fail)
    with pytest.raises(UserError, match=r"cannot write .*/new: no permission to write"):
        new_run_folder(tmp_path / "new", _config())


@pytest.mark.skipif(shutil.which("mount") is None, reason="NOT TESTED: no command `mount` on this system")
def test_a_real_read_only_parent(tmp_path: pathlib.Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"NOT TESTED: mounting is not permitted here ({mounted.stderr.decode().strip()})")
    try:
        with pytest.raises(UserError, match=r"cannot write .*/new: the disk is read-only"):
            new_run_folder(tmp_path / "new", _config())
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_what_is_no_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="none does not exist: name the folder of a run"):
        load_run(tmp_path / "none")
    with pytest.raises(UserError, match="is not the folder of a run: it has no"):
        load_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        load_run(tmp_path / "file")


def _lines(folder: pathlib.Path) -> list[object]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _events(folder: pathlib.Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]
    accumulator.Reload()  # type: ignore[no-untyped-call]
    return [(event.step, event.value) for event in accumulator.Scalars("return")]  # type: ignore[no-untyped-call]


def test_metrics_are_there_after_every_episode_and_start_anew_from_the_checkpoint(tmp_path: pathlib.Path) -> None:
    episodes = [{"episode": n, "return": -10.5 * n, "loss": None, "phase": "mpc"} for n in range(4)]
    with MetricsLog(tmp_path) as log:
        for n in range(3):
            log.write(episodes[n])
            assert _lines(tmp_path) == episodes[: n + 1]
    with MetricsLog(tmp_path, episodes[:1]) as log:  # killed after the second episode, checkpoint after the first
        assert _lines(tmp_path) == episodes[:1]
        log.write({**episodes[1], "return": -99.0})
    assert _lines(tmp_path) == [episodes[0], {**episodes[1], "return": -99.0}]
    assert _events(tmp_path) == [(0, 0.0), (1, -99.0)]


def test_metrics_are_json_whatever_happens(tmp_path: pathlib.Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.write({"episode": 0, "return": float("nan"), "loss": float("-inf"), "held_out_rmse": 1e-300})
        log.write({"episode": 1, "action_gradient_norms": [float("nan"), 2.0, float("inf")]})
    assert _lines(tmp_path) == [
        {"episode": 0, "return": None, "loss": None, "held_out_rmse": 1e-300},
        {"episode": 1, "action_gradient_norms": [None, 2.0, None]},
    ]


def test_a_disk_that_fills_up_during_the_run(tmp_path: pathlib.Path) -> None:
    if not pathlib.Path("/dev/full").exists() or not stat.S_ISCHR(pathlib.Path("/dev/full").stat().st_mode):
        pytest.skip("NOT TESTED: this system has no /dev/full")
    log = MetricsLog(tmp_path)
    log._file.close()
    log._file = pathlib.Path("/dev/full").open("a")  # noqa: SIM115 (the log closes it)
    with pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl: the disk is full"), log:
        log.write({"episode": 0})
    assert log._file.closed
