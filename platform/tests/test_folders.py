"""What a process that serves many runs resolves for each: the same as a process of its own would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Flow, Pooled, Template

Serve = Callable[..., Any]
"""Runs a file, or a script, in the one process of this test, and gives its result."""


@pytest.fixture
def serve(pooled: Pooled) -> Serve:
    return pooled.result


@pytest.mark.parametrize("order", ["rbr", "brb", "cbrc", "rcb"])
def test_a_helper_beside_the_file_wins_whatever_ran_before(flow: Flow, serve: Serve, order: str) -> None:
    source = "import near\ndef run(): return near.WHERE\n"
    flow("WHERE = 'root'\n", "near.py")
    flow("WHERE = 'b'\n", "near_b/near.py")
    flow("WHERE = 'c'\n", "near_c/near/__init__.py")
    paths = {"r": flow(source, "near_flow.py")}
    paths |= {name: flow(source, f"near_{name}/near_flow.py") for name in "bc"}
    expected = {"r": "root", "b": "b", "c": "c"}
    assert [serve(paths[name]) for name in order] == [expected[name] for name in order]


@pytest.mark.parametrize("order", ["aba", "bab", "nab"])
def test_folders_without_init_are_those_beside_the_file(flow: Flow, serve: Serve, order: str) -> None:
    source = "from parts import helper\ndef run(): return helper.WHERE\n"
    paths = {}
    for name in "ab":
        flow(f"WHERE = '{name}'\n", f"parts_{name}/parts/helper.py")
        paths[name] = flow(source, f"parts_{name}/parts_flow.py")
    paths["n"] = flow("def run(): return 'n'\n", "parts_none.py")
    assert [serve(paths[name]) for name in order] == list(order)


def test_an_import_in_a_function_finds_the_module_the_file_imported(flow: Flow, serve: Serve) -> None:
    source = "import late\ndef run():\n    import late as again\n    return [late is again, late.WHERE]\n"
    paths = []
    for name in "ab":
        flow(f"WHERE = '{name}'\n", f"late_{name}/late.py")
        paths.append(flow(source, f"late_{name}/late_flow.py"))
    assert [serve(path) for path in [*paths, *paths]] == [[True, "a"], [True, "b"]] * 2


def test_a_workflow_that_another_imports_gets_the_helpers_of_the_other(flow: Flow, serve: Serve) -> None:
    flow("WHERE = 'a'\n", "lent_a/lent.py")
    flow("WHERE = 'b'\n", "lent_b/lent.py")
    lender = flow("import lent\ndef run(): return lent.WHERE\n", "lent_a/lender.py")
    borrower = flow("from lent_a.lender import run\n", "lent_b/borrower.py")
    assert [serve(path) for path in (lender, borrower, lender)] == ["a", "b", "a"]


def test_a_script_resolves_at_the_root(flow: Flow, serve: Serve) -> None:
    flow("WHERE = 'root'\n", "main_helper.py")
    flow("WHERE = 'beside'\n", "main_team/main_helper.py")
    path = flow("import main_helper\ndef run(): return main_helper.WHERE\n", "main_team/main_flow.py")
    script = "import main_helper\nassert main_helper.WHERE == 'root'\n"
    assert serve(path) == "beside"
    serve(path, code=script)
    assert serve(path) == "beside"


def test_a_folder_keeps_its_modules_until_the_workspace_changes(flow: Flow, serve: Serve) -> None:
    source = "runs = []\ndef run():\n    runs.append(1)\n    return len(runs)\n"
    one, other = flow(source, "kept_a/kept.py"), flow(source, "kept_b/kept.py")
    assert [serve(path) for path in (one, other, one, other)] == [1, 1, 2, 2]
    assert [serve(path, generation="g2") for path in (one, other, one)] == [1, 1, 2]


def test_what_was_changed_is_executed_anew_before_the_workspace_has_another_name(
    flow: Flow, serve: Serve
) -> None:
    flow("SEEN = 1\n", "fresh/fresh_helper.py")
    source = "import fresh_helper\nruns = []\ndef run():\n    runs.append(1)\n"
    source += "    return [fresh_helper.SEEN, len(runs)]\n"
    path = flow(source, "fresh/fresh.py")
    assert [serve(path), serve(path)] == [[1, 1], [1, 2]]
    flow("SEEN = 22\n", "fresh/fresh_helper.py")
    assert [serve(path), serve(path)] == [[22, 1], [22, 2]]
    flow(source.replace("SEEN,", "SEEN + 1,"), "fresh/fresh.py")
    assert serve(path) == [23, 1]


def test_a_file_beside_the_workflow_wins_over_an_installed_module_that_was_imported(tmp_path: Path) -> None:
    installed, workspace = tmp_path / "installed", tmp_path / "workspace"
    (installed / "tool").mkdir(parents=True)
    (installed / "tool" / "__init__.py").write_text("import tool.part\nWHERE = 'installed'\nRUNS = []\n")
    (installed / "tool" / "part.py").touch()
    source = "import tool\ndef run(): return tool.WHERE\n"
    counting = "import tool.part\ndef run():\n    tool.RUNS.append(1)\n    return len(tool.RUNS)\n"
    for path, content in {
        "flow.py": counting,
        "other/flow.py": counting,
        "team/flow.py": source,
        "team/tool.py": "WHERE = 'beside'\n",
    }.items():
        (workspace / path).parent.mkdir(parents=True, exist_ok=True)
        (workspace / path).write_text(content)
    template = Template(workspace, tmp_path, extra_path=str(installed))
    process = Pooled(template)
    try:
        found = [process.result(f"{folder}flow.py") for folder in ("", "team/", "other/", "team/", "")]
        # The installed one is the same all along: some cannot be imported a second time.
        assert found == [1, "beside", 2, "beside", 3]
    finally:
        process.connection.close()
        template.stop()


@pytest.mark.parametrize("package", [True, False])
def test_a_workflow_that_ran_before_can_be_imported_with_its_folder(
    flow: Flow, serve: Serve, package: bool
) -> None:
    name = f"ran_{package}".lower()
    if package:
        flow("", f"{name}/deep/__init__.py")
        flow("", f"{name}/__init__.py")
    first = flow("runs = []\ndef run():\n    runs.append(1)\n    return len(runs)\n", f"{name}/deep/first.py")
    importing = (
        f"import {name}.deep.first\n"
        f"def run(): return len({name}.deep.first.runs)\n"
        f"def late():\n    import {name}.deep.first\n    return {name}.deep.first.runs\n"
    )
    other = flow(importing, f"{name}/deep/other.py")
    relative = flow("from . import first\ndef run(): return len(first.runs)\n", f"{name}/deep/relative.py")
    elsewhere = flow("def run(): return 0\n", f"{name}/elsewhere/flow.py")
    paths = [first, other, first, other, elsewhere, other, first, relative, relative]
    assert [serve(path) for path in paths] == [1, 1, 2, 2, 0, 2, 3, 3, 3]


def test_a_workspace_may_have_folders_with_names_of_the_platform(flow: Flow, serve: Serve) -> None:
    flow("WHERE = 'src'\n", "src/util.py")
    flow("WHERE = 'below'\n", "src/parts/helper.py")
    flow("WHERE = 'package'\n", "src/whole/__init__.py")
    flow("from src.util import WHERE\n", "src/whole/inner.py")
    flow("WHERE = 'models'\n", "src/models/own.py")
    flow("WHERE = 'shared'\n", "shared/util.py")
    flow("raise RuntimeError('hides the platform')\n", "shared/decorators.py")
    flow("raise RuntimeError('hides the platform')\n", "src/__init__.py")
    path = flow(
        "import bifrost, src.util, src.models.own\n"
        "from src import whole\n"
        "from src.parts import helper\n"
        "from src.whole import inner\n"
        "from src.models.enums import ExecutionStatus\n"
        "from shared import util\n"
        "from shared.decorators import workflow\n"
        "def run():\n"
        "    assert workflow is bifrost.workflow\n"
        "    return [m.WHERE for m in (src.util, helper, whole, inner, src.models.own, util)]\n"
    )
    assert serve(path) == ["src", "below", "package", "src", "models", "shared"]
    inside = flow("from src.util import WHERE\ndef run(): return WHERE\n", "src/inside.py")
    assert [serve(inside), serve(path)[0]] == ["src", "src"]
