"""What was downloaded once is found again: jobs see the real home, and the settings that say where caches are."""

from __future__ import annotations

from pathlib import Path

from tests.integration.cli.conftest import Home

WORKFLOWS = """\
workflows:
  - name: fetch
    provider: bash
    commands:
      - mkdir -p ~/.cache/huggingface/hub "$TORCH_HOME/hub"
      - echo weights > ~/.cache/huggingface/hub/model
      - echo weights > "$TORCH_HOME/hub/model"
  - name: use
    provider: bash
    commands:
      - cat ~/.cache/huggingface/hub/model "$TORCH_HOME/hub/model"
      - echo "$HF_HUB_OFFLINE $XDG_CACHE_HOME"
"""


def test_a_model_of_an_earlier_job_is_there(shared_home: Home, tmp_path: Path) -> None:
    (shared_home.repository / ".dstack" / "workflows.yaml").write_text(WORKFLOWS)
    caches = {"TORCH_HOME": f"{tmp_path}/torch", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": f"{tmp_path}/xdg"}
    shell = {**shared_home.environment, "HOME": str(tmp_path), **caches}
    shared_home.run("run", "fetch", env=shell)
    assert (tmp_path / ".cache" / "huggingface" / "hub" / "model").read_text() == "weights\n"
    done = shared_home.run("run", "use", env=shell)
    assert done.stdout == f"weights\nweights\n1 {tmp_path}/xdg\n"
