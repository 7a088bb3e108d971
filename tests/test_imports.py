"""Who may import whom, read from the source: the rooms of the project stay rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("l2p", "bench", "reproduce", "reports")
ALLOWED = {
    "l2p": set(),
    "bench": set(),
    "reproduce": {"l2p", "bench"},
    "reports": set(),
}
READERS = {"l2p.pictures", "l2p.tables"}  # the one reader of pictures and the one of tables, which every room uses
ENDINGS = {"l2p.ending", "l2p.errors"}  # the one handler of command lines and the error of bad input
SHARED = READERS | ENDINGS  # what every room may import
EXCEPTIONS = {
    "bench/cost/predict.py": {"l2p"},
    "bench/perf/test_l2p.py": {"l2p", "reproduce"},  # a study of their speed
    "bench/cost/command.py": {"reports"},  # `--paper` ends by drawing what it wrote
    "reproduce/stages/report.py": {"reports"},  # the last stage
}
REPORTS_READ = {
    *("bench.records", "bench.statistics", "bench.benchmarks"),
    *("bench.cost.devices", "bench.cost.families"),  # what is published of GPUs and sources
}
IN_ONE_FILE = (
    *("mmdet", "modelscope", "open_clip", "clip_benchmark", "torchmetrics"),
    *("torch_fidelity", "cleanfid", "lpips", "datasets"),
)


def source_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it, relative ones resolved."""
    found = set()
    parts = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # `from bench import records` imports the module bench.records
            found |= {f"{module}.{alias.name}" if module in PACKAGES else module for alias in node.names}
    return found


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names} & set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package):
    files = source_files(package)
    assert files, f"no source in {package}"
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        allowed = ALLOWED[package] | EXCEPTIONS.get(name, set()) | {package}
        if package == "reports":
            ours = {module for module in imports(path) if module.split(".")[0] == "bench"}
            assert all(any(m == ok or m.startswith(ok + ".") for ok in REPORTS_READ) for m in ours), f"{name}: {ours}"
            allowed = allowed | {"bench"}
        found = rooms({module for module in imports(path) if module.rpartition(".")[0] not in SHARED | {""}} - SHARED)
        assert found <= allowed, f"{name} imports {found - allowed}"


def test_the_readers_need_no_torch_and_none_of_ours():
    for name in READERS:
        found = imports(ROOT / f"{name.replace('.', '/')}.py")
        assert not rooms(found - ENDINGS - {"l2p.errors.InputError"}) and "torch" not in found, name


def test_whose_fault_an_error_is_stands_where_it_is_raised():
    """A ValueError of ours ends a command with status 4: what the user gave wrong is an InputError, status 2."""
    for package in PACKAGES:
        for path in source_files(package):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                raised = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
                bad = isinstance(raised, ast.Name) and raised.id == "ValueError"
                assert not bad, f"{path}:{node.lineno} raises ValueError: raise l2p.errors.InputError"


OWN_READERS = {
    "l2p/tables.py": {"csv.reader"},
    "bench/perf/test_fidelity.py": {"Image.open"},  # as the published script reads, to time it
    "bench/geneval/people.py": {"csv.reader"},  # of records with line breaks outside quotes
    # run where nothing of ours is installed, on PNGs that we wrote
    "bench/geneval/mmdet_worker.py": {"Image.open"},
    "bench/dpg/mplug_worker.py": {"Image.open"},
}


def test_pictures_and_tables_are_read_in_one_place():
    for path in (path for package in PACKAGES for path in source_files(package)):
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        name = path.relative_to(ROOT).as_posix()
        found = calls & {"Image.open", "csv.reader", "csv.DictReader", "cv2.imread"}
        assert found == OWN_READERS.get(name, set()), name


def test_what_reports_read_is_free_of_torch():
    code = f"import sys, {', '.join(sorted(REPORTS_READ | SHARED))}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    modules = {module.split(".")[0] for module in loaded.split()}
    assert "bench" in modules and not modules & {"torch", "torchvision", "diffusers", "transformers", "accelerate"}
    for path in source_files("reports"):
        assert "torch" not in {module.split(".")[0] for module in imports(path)}, path


@pytest.mark.parametrize("library", IN_ONE_FILE)
def test_a_heavy_library_is_imported_in_one_file(library):
    users = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in source_files(package)
        if library in {name.split(".")[0] for name in imports(path)}
    }
    assert len(users) <= 1, f"{library} is imported in {sorted(users)}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    """The tests above would pass on a reader that sees nothing."""
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "reports" / "deep" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("import torch.nn as nn\ndef f():\n    from bench import runner\n    from ..paper import A\n")
    assert imports(path) == {"torch.nn", "bench.runner", "reports.paper"}
