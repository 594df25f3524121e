"""Packages of the workspace: there for runs, after the standard library, never loaded by the template."""

from pathlib import Path

from conftest import Template


def test_packages_are_there_for_runs_and_nothing_of_them_is_loaded_before(tmp_path: Path) -> None:
    packages, workspace = tmp_path / "packages", tmp_path / "workspace"
    (packages / "colour").mkdir(parents=True)
    workspace.mkdir()
    (packages / "colour" / "__init__.py").write_text("import os\nLOADED_BY = os.getpid()\n")
    (packages / "json.py").write_text("raise ImportError('not the one of the standard library')\n")
    (packages / "colour.pth").write_text("import colour\n")
    (workspace / "flow.py").write_text(
        "import os, sys\nimport colour, json\n"
        "def run():\n    return [colour.LOADED_BY == os.getpid(), json.dumps([1]), colour.__file__]\n"
    )
    template = Template(workspace, tmp_path, options=("--packages", str(packages)))
    try:
        loaded, text, place = template.run().result["result"]
        assert (loaded, text) == (True, "[1]")
        assert Path(place).is_relative_to(packages)
    finally:
        template.stop()
