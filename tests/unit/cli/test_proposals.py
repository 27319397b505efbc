"""The first workflows of a project, from what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dstack import workflows
from dstack.cli.proposals import Proposal, find_requirements, propose
from dstack.cli.scripts import Script, find_scripts
from dstack.providers import registry

ROOT = Path(__file__).parents[3]


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def script(root: Path, text: str, name: str = "train.py") -> Script:
    (root / name).write_text(text)
    [found] = find_scripts(root)
    return found


def entries(proposal: Proposal) -> dict[str, dict[str, Any]]:
    """The proposed workflows by name; the text is one that dstack itself takes without a complaint."""
    loaded = workflows.load({".dstack/workflows.yaml": proposal.text}, registry())
    assert not loaded.warnings
    return {item["name"]: item for item in yaml.safe_load(proposal.text)["workflows"]}


class TestScripts:
    def test_roles_by_name(self, tmp_path: Path) -> None:
        for name in ("download_data", "train", "evaluate", "plot", "finetune_bert", "predict"):
            (tmp_path / f"{name}.py").write_text("if __name__ == '__main__':\n    pass\n")
        assert [(item.name, item.role) for item in find_scripts(tmp_path)] == [
            ("download_data", "prepare"), ("finetune_bert", "train"), ("train", "train"),
            ("evaluate", "evaluate"), ("predict", "evaluate"), ("plot", "other"),
        ]  # fmt: skip

    def test_what_is_only_imported_is_none(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "trainer.py": "def train(): ...\n",
                "setup.py": "setup()\n",
                "test_train.py": "main()\n",
                "conftest.py": "main()\n",
                "broken_train.py": "def (:\n",
                ".venv/train.py": "main()\n",
                "tests/train.py": "main()\n",
                "env/pyvenv.cfg": "",
                "env/fit.py": "main()\n",
            },
        )
        assert find_scripts(tmp_path) == []

    def test_a_script_without_a_guard(self, tmp_path: Path) -> None:
        assert script(tmp_path, "import x\nfor epoch in range(3):\n    print(epoch)\n").role == "train"

    def test_what_nothing_imports_is_run(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            {
                "min-char-rnn.py": "data = open('input.txt').read()\nwhile True:\n    pass\n",
                "model.py": "torch.set_num_threads(1)\n",
                "lib/plots.py": "matplotlib.use('Agg')\n",
                "constants.py": "A = 1\n",
                "notebook_helper.py": "import model\nfrom lib import plots\n",
            },
        )
        assert [item.name for item in find_scripts(tmp_path)] == ["min-char-rnn"]

    def test_what_it_takes_without_a_name(self, tmp_path: Path) -> None:
        text = "import sys\nif len(sys.argv) != 3:\n    sys.exit(1)\na = sys.argv[1]\nopen(sys.argv[2])\nmain()\n"
        assert script(tmp_path, text).operands == ("ARGUMENT", "ARGUMENT")
        text = "p.add_argument('data')\np.add_argument('-o')\np.add_argument('--lr')\nmain()\n"
        assert script(tmp_path, text).operands == ("DATA",)

    @pytest.mark.parametrize(
        ("text", "outputs"),
        [
            ("torch.save(m, 'checkpoints/model.pt')", ["checkpoints"]),
            ("os.makedirs('out', exist_ok=True)", ["out"]),
            ("Path('results').mkdir()", ["results"]),
            ("OUT = Path('runs') / 'x'\nOUT.mkdir()", ["runs"]),
            ("open('logs/a.txt', 'w')\nopen('data/b.txt')", ["logs"]),
            ("Path('logs/a.txt').open('w')\nPath('data/a').open()", ["logs"]),
            ("open(file='data/x', mode='rb')", []),
            ("df.to_csv(os.path.join('report', name))", ["report"]),
            ("model.save_pretrained(f'models/{name}')", ["models"]),
            ("D = 'ckpt'\nx.save(f'{D}/a.pt')", ["ckpt"]),
            ("p.add_argument('--output-dir', default='./out')", ["out"]),
            ("p.add_argument('--data-dir', default='data')", []),
            ("torch.save(m, '/tmp/x/y')\ntorch.save(m, '../up/y')\nplt.savefig('a b/c')", []),
            ("np.savetxt('model.txt', x, fmt='%.3f')", []),
            ("Path('out/a').write_text('words/x')", ["out"]),
            ("df.to_json('report/a', orient='a/b')\nnp.savez('data')", ["report"]),
            ("SummaryWriter(log_dir='tensorboard')", ["tensorboard"]),
            ("p.add_argument('--model-path', default='model.pt')", []),
        ],
    )
    def test_where_it_writes(self, tmp_path: Path, text: str, outputs: list[str]) -> None:
        assert list(script(tmp_path, f"{text}\nmain()\n").outputs) == outputs

    def test_a_folder_with_files_is_read_unless_it_is_called_an_output(self, tmp_path: Path) -> None:
        write(tmp_path, {"data/a.csv": "1", "output/old.txt": "1"})
        assert script(tmp_path, "x.save('data/b')\nx.save('output/b')\n").outputs == ("output",)

    def test_a_folder_below_one_with_files(self, tmp_path: Path) -> None:
        write(tmp_path, {"data/a.csv": "1", "data/raw/b.csv": "1"})
        text = "os.makedirs(os.path.join('data', 'prepared'))\nos.makedirs('data/raw')\nx.save('data/more/b')\n"
        assert script(tmp_path, text).outputs == ("data/prepared", "data/more")

    def test_its_options_and_its_words(self, tmp_path: Path) -> None:
        found = script(
            tmp_path, '"""Train it.\n\nLong."""\np.add_argument("-e", "--epochs")\np.add_argument("x")\nmain()\n'
        )
        assert (found.options, found.about) == (("--epochs",), "Train it")

    def test_a_module_that_is_run(self, tmp_path: Path) -> None:
        write(tmp_path, {"trainer/__main__.py": "def main(): ...\n"})
        assert [item.name for item in find_scripts(tmp_path)] == []
        write(tmp_path, {"fit/__main__.py": "if __name__ == '__main__':\n    main()\n"})
        assert [item.name for item in find_scripts(tmp_path)] == ["fit"]


class TestRequirements:
    def test_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, {"requirements.txt": "numpy\n", "pyproject.toml": "[project]\ndependencies = ['x']\n"})
        assert find_requirements(tmp_path).value == "requirements.txt"

    def test_a_file_beside_the_scripts(self, tmp_path: Path) -> None:
        write(tmp_path, {"src/train.py": "fit(sys.argv[1])\n", "src/requirements.txt": "numpy\n"})
        [found] = entries(propose(tmp_path)).values()
        assert (found["script"], found["requirements"]) == ("src/train.py", "src/requirements.txt")
        assert "    # args: ARGUMENT  # it takes an argument\n" in propose(tmp_path).text

    def test_of_a_project(self, tmp_path: Path) -> None:
        listed = "['torch>=2', \"x; sys_platform == 'linux'\"]"
        write(tmp_path, {"pyproject.toml": f"[project]\ndependencies = {listed}\n", "src/mine/__init__.py": ""})
        found = find_requirements(tmp_path)
        assert (found.value, found.source_folder) == (["torch>=2", "x; sys_platform == 'linux'"], "src")

    @pytest.mark.parametrize("text", ["", "[project]\nname = 'x'\n", "[", "project = 1\n"])
    def test_none(self, tmp_path: Path, text: str) -> None:
        write(tmp_path, {"pyproject.toml": text})
        found = find_requirements(tmp_path)
        assert (found.value, "the Python of the shell" in found.said) == (None, True)

    def test_of_conda(self, tmp_path: Path) -> None:
        write(tmp_path, {"environment.yml": "name: x\n"})
        assert "conda" in find_requirements(tmp_path).said


class TestProposals:
    def test_the_digits(self) -> None:
        proposal = propose(ROOT / "examples" / "digits")
        found = entries(proposal)
        assert proposal.first == "train"
        assert list(found) == ["prepare", "train", "evaluate"]
        assert [item["requirements"] for item in found.values()] == ["requirements.txt"] * 3
        assert [item["artifacts"] for item in found.values()] == [["data"], ["checkpoint"], ["report"]]
        assert found["train"]["depends-on"] == ["prepare"]
        assert found["evaluate"]["depends-on"] == ["prepare:latest", "train:latest"]
        assert "dstack run train --epochs VALUE" in proposal.text

    def test_listed_requirements_and_a_source_folder(self, tmp_path: Path) -> None:
        listed = "['a[b]>=1,<2', 'c; x == \"y\"']"
        project = f"[project]\ndependencies = {listed}\n"
        write(tmp_path, {"train.py": "main()\n", "pyproject.toml": project, "src/mine/__init__.py": ""})
        [found] = entries(propose(tmp_path)).values()
        assert found["requirements"] == ["a[b]>=1,<2", 'c; x == "y"']
        assert found["environment"] == {"PYTHONPATH": "src"}

    def test_where_nothing_trains_by_its_name(self, tmp_path: Path) -> None:
        write(tmp_path, {"main.py": "main()\n", "sample.py": "main()\n"})
        proposal = propose(tmp_path)
        assert (list(entries(proposal)), proposal.first) == (["sample", "main"], "main")

    def test_shell_scripts(self, tmp_path: Path) -> None:
        write(tmp_path, {"build all.sh": "make\n", "train.sh": "make\n"})
        found = entries(propose(tmp_path))
        assert {name: item["commands"] for name, item in found.items()} == {
            "build-all": ["bash './build all.sh'"], "train": ["bash ./train.sh"],
        }  # fmt: skip

    def test_nothing(self, tmp_path: Path) -> None:
        proposal = propose(tmp_path)
        assert list(entries(proposal)) == ["hello"]
        assert "No script was found, so the file has an example only." in proposal.notes

    def test_files_that_would_not_be_saved_are_told_of(self, tmp_path: Path) -> None:
        write(tmp_path, {"train.py": "torch.save(m, 'model.pt')\nmain()\n"})
        notes = propose(tmp_path).notes
        assert any("train.py writes model.pt beside itself" in note for note in notes)

    def test_names_and_words_that_yaml_would_misread(self, tmp_path: Path) -> None:
        write(tmp_path, {"train #1.py": '"""Train: all # of it."""\nmain()\n'})
        [(name, found)] = entries(propose(tmp_path)).items()
        assert (name, found["script"], found["help"]) == ("train--1", "'train #1.py'", "Train: all # of it")
