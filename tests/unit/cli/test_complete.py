"""What is offered while a command line is typed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from dstack.cli import completions, main
from dstack.cli.commands import ALIASES, COMMANDS
from dstack.cli.complete import split

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    (folder / ".dstack").mkdir(parents=True)
    (folder / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - name: train\n    help: Train it.\n    provider: bash\n  - name: trace\n  - name: prepare\n"
    )
    (folder / ".dstack" / "variables.yaml").write_text(
        "variables:\n  global:\n    rate: 1\n  train:\n    epochs: 3\n  prepare:\n    seed: 1\n"
    )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DSTACK_HOME", str(tmp_path / "home"))
    for name in ("DSTACK_SERVER", "DSTACK_PROFILE", "DSTACK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def offered(capsys: pytest.CaptureFixture[str]):
    def offered(line: str, shell: str = "zsh") -> list[str]:
        capsys.readouterr()
        assert main(["__complete", shell, line]) == 0
        return [text.partition("\t")[0] for text in capsys.readouterr().out.splitlines()]

    return offered


def test_of_several_spellings_that_of_today_is_offered(offered) -> None:
    assert offered("dstack logs --") == ["--follow", "--json", "--since", "--help"]
    assert "--yes" in offered("dstack prune -")


def test_the_table_is_current() -> None:
    spec = importlib.util.spec_from_file_location("generate_help", ROOT / "scripts" / "generate_help.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = Path(completions.__file__).read_text(encoding="utf-8")
    assert written == module.completions(), "run: python scripts/generate_help.py"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("dstack run ", ["dstack", "run", ""]),
        ("dstack  run tr", ["dstack", "run", "tr"]),
        ("dstack 'a b' \"c 'd\" e\\ f", ["dstack", "a b", "c 'd", "e f"]),
        ("dstack 'a b", ["dstack", "a b"]),
        ("dstack ''", ["dstack", ""]),
        ("", [""]),
    ],
)
def test_words_as_far_as_they_were_typed(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_commands(offered) -> None:
    assert offered("dstack ") == list(COMMANDS)
    assert offered("dstack ru") == ["run", "runs", "runners", "runner"]
    assert set(ALIASES) <= {*offered("dstack p"), *offered("dstack s")}
    assert offered("dstack artifacts ") == ["cat", "cp", "diff", "download", "list", "log", "upload"]
    assert offered("dstack server st") == ["start", "status", "stop"]


def test_options(offered) -> None:
    assert "--follow" in offered("dstack logs -")
    assert "--follow" in offered("dstack logs some-run-1 --f")
    assert "--output" in offered("dstack artifacts download --")
    assert offered("dstack ps --a") == ["--all"], "an alias is its command"
    assert offered("dstack config --no") == ["--no-verify"]
    assert offered("dstack nothing --") == []


def test_workflows_variables_and_providers_of_run(offered) -> None:
    assert offered("dstack run tr") == ["train", "trace"]
    assert {"train", "trace", "prepare", "bash", "python"} <= set(offered("dstack run "))
    assert "train" in offered("dstack run -d --tag x ")
    variables = [name for name in offered("dstack run train --") if "epoch" in name or "rate" in name or "seed" in name]
    assert variables == ["--epochs", "--rate", "--prepare.seed"]
    assert {"--detach", "--tag", "--gpu"} <= set(offered("dstack run train --"))
    assert offered("dstack run --det") == ["--detach"]
    assert "--gpu" not in offered("dstack run --"), "what the workflow takes stands behind its name"
    assert offered("dstack run train -- --") == [], "the program's words are not ours"
    assert offered("dstack run train --epochs ") == [], "files, says the shell"


def test_options_are_those_of_the_provider(offered, repository: Path) -> None:
    (repository / ".dstack" / "workflows.yaml").write_text(
        "workflows:\n  - {name: a, provider: torchrun, file: x.py}\n  - {name: b, commands: [x]}\n"
        "  - {name: c, provider: curl, url: x}\n  - {name: d, provider: other}\n"
    )
    several = ["--nnodes", "--logdir", "--ports", "--requirements", "--gpu"]

    def of(name: str) -> list[str]:
        found = offered(f"dstack run {name} --")
        return [option for option in several if option in found]

    assert of("a") == of("torchrun") == ["--nnodes", "--requirements", "--gpu"]
    assert of("b") == of("bash") == ["--ports", "--requirements", "--gpu"]
    assert of("c") == ["--gpu"]
    assert of("d") == several


def test_choices_of_a_variable(offered, repository: Path) -> None:
    (repository / ".dstack" / "variables.yaml").write_text(
        "variables:\n  global:\n    dry-run: {type: bool, default: no}\n    mode: {choices: [x]}\n"
        "  train:\n    mode: {choices: [fast, full, 1.0]}\n    epochs: 3\n"
    )
    assert offered("dstack run train --mode ") == ["fast", "full", "1.0"]
    assert offered("dstack run train --mode fu") == ["full"]
    assert offered("dstack run train --mode=f") == ["--mode=fast", "--mode=full"]
    assert offered("dstack run train --mode=f", "bash") == ["fast", "full"]
    assert offered("dstack run prepare --mode ") == ["x"]
    assert offered("dstack run prepare --train.mode f") == ["fast", "full"]
    assert offered("dstack run train --dry_run ") == ["true", "false"]
    assert offered("dstack run train --epochs ") == []
    assert "--mode" in offered("dstack run train --mode fast --")


def test_workflows_of_another_folder(
    offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert offered("dstack run tr") == []
    for words in (f"--repo {repository}", f"--repo={repository}"):
        assert offered(f"dstack run {words} tr") == ["train", "trace"]


def test_choices_and_profiles(offered, tmp_path: Path) -> None:
    assert offered("dstack completion ") == ["bash", "zsh", "fish"]
    assert offered("dstack config ") == ["delete", "list"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.yaml").write_text("profiles:\n  default:\n    server: https://x\n  staging: {}\n")
    assert offered("dstack config delete ") == ["default", "staging"]
    assert offered("dstack config sta") == ["staging"]
    (tmp_path / "home" / "config.yaml").write_text("profiles: [")
    assert offered("dstack config delete ") == []


def test_what_it_is_stands_behind_a_tab(capsys: pytest.CaptureFixture[str]) -> None:
    main(["__complete", "fish", "dstack run tra"])
    assert capsys.readouterr().out == "train\tTrain it.\ntrace\n"
    main(["__complete", "bash", "dstack run tra"])
    assert capsys.readouterr().out == "train\ntrace\n"


def test_fish_is_given_files_where_nothing_else_fits(offered, repository: Path) -> None:
    (repository / "data").mkdir()
    (repository / "data" / "a.csv").touch()
    assert offered("dstack run train da", "fish") == ["data/"]
    assert offered("dstack run train data/", "fish") == ["data/a.csv"]
    assert offered("dstack run train none/", "fish") == []


def test_nothing_heavy_is_loaded(repository: Path) -> None:
    code = (
        "import sys; from dstack.cli import main; main(['__complete', 'bash', sys.argv[1]]); "
        "heavy = {'click', 'yaml', 'asyncio', 'msgspec', 'rich', 'dstack.client.code'} & set(sys.modules); "
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    for line in ("dstack ", "dstack run tr", "dstack run train --", "dstack logs -"):
        environment = {"PYTHONPATH": str(ROOT / "src"), "HOME": str(repository)}
        command = [sys.executable, "-S", "-c", code, line]
        done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), line
