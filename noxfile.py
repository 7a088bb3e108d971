"""The project's jobs, all in ONE environment: `.venv`, made by the first session and shared by the others.

nox -s reproduce-flux                         the paper in miniature: train, sample, score, report; one session a family
nox -s reproduce-flux -- --size paper --plan  what the paper's size would cost; posargs go to `python -m reproduce flux`
nox -s dry                                    every family's recipes of the paper's size on tiny random weights
nox -s tests        nox -s lint
nox -s dpg-mplug                              DPG-Bench's own VQA model, in an environment of its own beside `.venv`
nox -s parity-mmdet                           GenEval's detector against mmdet itself: writes docs/parity-mmdet.md
"""

import hashlib
import json
import runpy
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import nox
from filelock import FileLock  # comes with nox (its virtualenv needs it)
from packaging.requirements import Requirement  # comes with nox

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
PACKAGES = ("l2p", "bench", "reproduce", "reports")
MPLUG_VENV = ROOT / ".venv-mplug"
MPLUG = ("modelscope==1.40.*", "transformers==4.57.6", "huggingface-hub<1", "datasets<4", "addict")
MMDET_VENV = ROOT / ".venv-mmdet"
MMDET = ("onedl-mmcv==2.3.6", "onedl-mmengine==0.10.12", "onedl-mmdetection==3.5.1")

nox.options.sessions = ["tests", "lint"]


INTERRUPTED = 3  # what `python -m reproduce` exits with, and a run that was stopped goes on from
FAMILIES = runpy.run_path(str(ROOT / "reproduce" / "families.py"))["recipe_families"]()  # file names: no `.venv` needed

for name in FAMILIES:

    @nox.session(name=f"reproduce-{name}", python=False)
    def reproduce(session: nox.Session, family: str = name) -> None:
        """One family from prompt to table: corpus, transfer, sample, score, cost, report (posargs: see `-- --help`)."""
        try:
            run(session, "-m", "reproduce", family, *session.posargs)
        except nox.command.CommandFailed as failed:  # nox itself would exit with 1 whatever the command says
            sys.exit(failed.return_code)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """All tests, as many files at once as there are cores, at most four; posargs go to pytest."""
    at_once = ("--numprocesses", "logical", "--maxprocesses", "4", "--dist", "loadfile")
    run(session, "-m", "pytest", *at_once, *session.posargs)


@nox.session(python=False)
def dry(session: nox.Session) -> None:
    """All stages of each family's paper-size recipes on random weights: one process, two with gloo; then at 4096 px."""
    for family in FAMILIES:
        recipe = (family, "--size", "paper", "--dry", "--run")
        # Without `--` torchrun takes --run for one of its own options.
        two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "reproduce", "--")
        large = (family, "--recipe", f"{family}_4k", "--dry", "--run")
        with tempfile.TemporaryDirectory() as folder:
            run(session, "-m", "reproduce", *recipe, f"{folder}/one", *session.posargs)
            run(session, *two, *recipe, f"{folder}/two", *session.posargs)
            run(session, "-m", "reproduce", *large, f"{folder}/large", *session.posargs)


@nox.session(python=False)
def lint(session: nox.Session) -> None:
    """Ruff's rules and format, and mypy on our packages."""
    run(session, "-m", "ruff", "check", ".")
    run(session, "-m", "ruff", "format", "--check", ".")
    run(session, "-m", "mypy")


@nox.session(name="dpg-mplug", python=False)
def dpg_mplug(session: nox.Session) -> None:
    """Make `.venv-mplug` for mPLUG (transformers 4) and try its path with random weights; posargs go to pytest."""
    prepare_environment(session)
    python = MPLUG_VENV / PYTHON.relative_to(VENV)
    if (
        not python.exists()
        or subprocess.run([python, "-c", "import modelscope, addict"], capture_output=True).returncode
    ):
        session.run(sys.executable, "-m", "venv", "--clear", str(MPLUG_VENV), external=True)
        see_packages_of(python, PYTHON)  # torch and what else is there already
        session.run(str(python), "-m", "pip", "install", *MPLUG, external=True)
    session.env.setdefault("L2P_MPLUG_SIZE", "small")
    run(session, "-m", "pytest", "-rs", "-s", "tests/bench/dpg/test_mplug.py", *session.posargs)


@nox.session(name="parity-mmdet", python=False)
def parity_mmdet(session: nox.Session) -> None:
    """Make `.venv-mmdet` and measure our Mask2Former against mmdet's; writes docs/parity-mmdet.md."""
    prepare_environment(session)
    python = MMDET_VENV / PYTHON.relative_to(VENV)
    if not python.exists() or subprocess.run([python, "-c", "import mmengine, mmcv"], capture_output=True).returncode:
        session.run(sys.executable, "-m", "venv", "--clear", str(MMDET_VENV), external=True)
        see_packages_of(python, PYTHON)  # torch, transformers and what else is there already
        pure = {"MMCV_WITH_OPS": "0"}  # no compiler needed: bench/geneval/mmdet_stub.py stands in for the operators
        session.run(str(python), "-m", "pip", "install", "setuptools", "wheel", *MMDET, external=True, env=pure)
    session.env["PYTHONPATH"] = str(ROOT)
    session.run(str(python), "tests/tools/parity.py", *session.posargs, external=True)
    session.env["L2P_MMDET_PYTHON"] = str(python)
    run(session, "-m", "pytest", "tests/bench/geneval/test_mmdet.py")


def see_packages_of(python: Path, other: Path) -> None:
    """Let one environment's Python see another's packages, after its own."""
    here, there = (
        subprocess.run(
            [interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for interpreter in (python, other)
    )
    Path(here, "inherited.pth").write_text(f"{there}\n")


def run(session: nox.Session, *arguments: str) -> None:
    """Run our environment's Python; Ctrl-C leaves it a minute to close its files, for a run that goes on later."""
    prepare_environment(session)
    session.run(str(PYTHON), *arguments, external=True, interrupt_timeout=60.0, terminate_timeout=10.0)


def prepare_environment(session: nox.Session) -> None:
    """Make or update `.venv` when it is missing or pyproject's dependencies changed since it was installed."""
    if sys.version_info < (3, 11):  # noqa: UP036 (nox itself runs on older ones)
        session.error(f"Python 3.11 or newer is needed, nox runs on {sys.version.split()[0]}: install nox there")
    stamp = VENV / "dependencies.sha256"
    (ROOT / ".cache").mkdir(exist_ok=True)
    with FileLock(ROOT / ".cache" / "venv.lock"):  # two sessions started at once: the second waits, then finds it done
        if works("sys") and stamp.exists() and stamp.read_text() == dependency_hash():
            return
        stamp.unlink(missing_ok=True)
        if not works("sys"):
            make_environment(session, inherited_torch(session))
        install(session)
        if not works("torch", "torchvision", "diffusers"):
            session.warn("this Python's torch does not run with torchvision and diffusers: installing another in .venv")
            make_environment(session, None)
            install(session)
        stamp.write_text(dependency_hash())


def install(session: nox.Session) -> None:
    """Install the project with everything its sessions use; what is there and in range stays."""
    session.run(str(PYTHON), "-m", "pip", "install", "-e", f"{ROOT}[eval,datasets,dev]", external=True)


def make_environment(session: nox.Session, torch_folder: Path | None) -> None:
    """Make an empty `.venv`; with `torch_folder` it sees the packages of the Python that runs nox."""
    inherit = [] if torch_folder is None else ["--system-site-packages"]
    session.run(sys.executable, "-m", "venv", "--clear", *inherit, str(VENV), external=True)
    if torch_folder is not None and sys.prefix != sys.base_prefix:  # from a venv, the flag above means its base Python
        command = [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        Path(site, "inherited.pth").write_text(f"{torch_folder}\n")


def inherited_torch(session: nox.Session) -> Path | None:
    """The folder of a torch that the Python running nox has and that our range allows, else None."""
    wanted = next(r for r in map(Requirement, project()["dependencies"]) if r.name == "torch")
    try:
        found = metadata.distribution("torch")
    except metadata.PackageNotFoundError:
        return None
    if not wanted.specifier.contains(found.version, prereleases=True):
        session.warn(f"this Python's torch {found.version} is outside {wanted}: .venv gets its own")
        return None
    session.log(f"using the torch {found.version} of {sys.executable}")
    return Path(str(found.locate_file("")))


def works(*modules: str) -> bool:
    """Whether `.venv`'s Python starts and imports the modules."""
    if not PYTHON.exists():
        return False
    return subprocess.run([PYTHON, "-c", f"import {', '.join(modules)}"], capture_output=True).returncode == 0


def dependency_hash() -> str:
    """Of what pyproject asks for: when it changes, `.venv` is installed again."""
    asked = [project()["dependencies"], project()["optional-dependencies"], PACKAGES]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def project() -> dict:
    """pyproject's [project] table."""
    return nox.project.load_toml(ROOT / "pyproject.toml")["project"]
