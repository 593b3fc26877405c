"""The project's chores, each in a virtual environment of its own.

``nox`` runs what a change has to pass; ``nox -l`` lists everything. Nothing but Python and the
package index is needed: interpreters are used where they are found and never downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
PROJECTS = ["cancelable", "cancelable_starlette", "cancelable_fastapi"]
SOURCES = [f"{project}/src" for project in PROJECTS]
EDITABLE = [argument for project in PROJECTS for argument in ("-e", f"./{project}")]

# What a package is called as a file, what is its own among the tests, and what those need.
WHEELS = {
    "cancelable": "cancelable_core",
    "cancelable_starlette": "cancelable_starlette",
    "cancelable_fastapi": "cancelable_fastapi",
}
TESTS_OF = {
    "cancelable": ["tests/core"],
    "cancelable_starlette": ["tests/starlette"],
    "cancelable_fastapi": ["tests/fastapi", "tests/docs"],
}
TESTED_WITH = {"cancelable": "core", "cancelable_starlette": "tests", "cancelable_fastapi": "tests"}

# The Pythons that are promised, and the one that runs nox, so that a machine which has only a
# newer one still tests something.
PYTHONS = ["3.11", "3.12", "3.13"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
if HERE not in PYTHONS:
    PYTHONS.append(HERE)


def is_here(python: str) -> bool:
    """Return whether a Python can be started; a version manager may have left only its name."""
    found = shutil.which(f"python{python}")
    if found is None:
        return False
    return subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0


OLDEST = PYTHONS[0] if is_here(PYTHONS[0]) else HERE
OTHERS = PYTHONS[1:] if any(map(is_here, PYTHONS[1:])) else [HERE]

# The oldest Python has three sessions of its own: the core alone, the wheels with the newest of
# what they stand on, and everything with the oldest of it.
nox.options.sessions = [
    "lint",
    "types",
    *(f"tests-{python}" for python in OTHERS),
    "core_alone",
    "wheels",
    "floors",
]

TWO_BACKENDS = ["--backend", "asyncio", "--backend", "trio"]
# What a Python or a loop might do otherwise is in our own code. The newest Python goes round all
# loops and servers, and kills brokers, which takes minutes and hardly depends on the version; the
# floors have the broker and the pages too.
OUR_ROOMS = ["tests/core", "tests/starlette", "tests/fastapi", "tests/packaging"]
SERVERS = "tests/servers"
ROOMS = {f"tests/{path.parent.name}" for path in ROOT.glob("tests/*/test_*.py")}
OTHER_ROOMS = sorted(ROOMS - {*OUR_ROOMS, SERVERS})
ON_EACH_PYTHON = [[*TWO_BACKENDS, *OUR_ROOMS]]
ON_THE_NEWEST = [[*OUR_ROOMS, SERVERS], [*TWO_BACKENDS, *OTHER_ROOMS]]
AT_THE_FLOORS = [
    *TWO_BACKENDS,
    "--ignore=tests/core",  # which the session of the core alone runs at the floors
    "--ignore=tests/bus/test_faults.py",
    "--ignore=tests/bus/test_demo_scale.py",
    f"--ignore={SERVERS}",
    "--ignore=tests/examples",
]
# A wheel may lack a file, and those of FastAPI use all of them. The rest is tested elsewhere.
OF_THE_WHEELS = ["--backend", "asyncio", "tests/fastapi", "tests/packaging"]

# Files go to a few processes side by side, one more than there are processors: most tests wait for
# servers and brokers.
WORKERS = min(4, (os.cpu_count() or 1) + 1)
SIDE_BY_SIDE = ["-n", str(WORKERS), "--dist", "loadfile"]


def chosen(session: nox.Session, *defaults: str) -> list[str]:
    """Return the arguments for pytest: those that the caller gave, else ours."""
    return session.posargs or [*SIDE_BY_SIDE, *defaults]


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group.

    An old pip does not know ``--group``, so they are handed over one by one.
    """
    return list(nox.project.dependency_groups(GROUPS, name))


@nox.session(python=PYTHONS, tags=["test"])
def tests(session: nox.Session) -> None:
    """Run the tests; ``-- --backend trio`` runs them on one backend.

    The newest Python runs all of them, our own code on every loop. The others run our own code on
    asyncio and Trio: uvloop and eager tasks differ in what does not change with the version. What
    ``nox`` runs without arguments has other sessions for the oldest.
    """
    session.install(*EDITABLE, *group("tests"))
    runs = ON_THE_NEWEST if session.python == PYTHONS[-1] else ON_EACH_PYTHON
    for arguments in [[]] if session.posargs else runs:
        session.run("pytest", *chosen(session, *arguments))


@nox.session(python=OLDEST, tags=["test"])
def core_alone(session: nox.Session) -> None:
    """Run the tests of the core, at its floors, where nothing of the web is installed."""
    pins = pinned_floors(session)
    session.install("-c", pins, "-e", "./cancelable", *group("core"))
    absent = ("fastapi", "psutil", "pydantic", "starlette")
    session.run(
        "python",
        "-c",
        "import importlib.util, sys\n"
        "import cancelable, cancelable.bus, cancelable.testing\n"
        f"found = [name for name in {absent} if importlib.util.find_spec(name)]\n"
        "sys.exit(f'not alone here: {found}' if found else 0)",
    )
    session.install("-c", pins, "-e", "./cancelable[resources]")
    session.run("pytest", *chosen(session, "tests/core", *TWO_BACKENDS))


@nox.session
def build(session: nox.Session) -> None:
    """Build the three source distributions, and from these the three wheels, into dist/."""
    session.install(*group("build"))
    digests = build_all(session, ROOT, DIST)
    session.log("built %s", ", ".join(sorted(digests)))
    if len(digests) != 2 * len(PROJECTS):
        session.error("expected one sdist and one wheel of each project")


def build_all(session: nox.Session, root: Path, into: Path) -> dict[str, str]:
    """Build the projects below a folder; return what was built, with its digests."""
    shutil.rmtree(into, ignore_errors=True)
    environment = {"SOURCE_DATE_EPOCH": time_of_last_change()}
    for project in PROJECTS:
        command = ["python", "-m", "build", "--no-isolation", "--outdir", str(into)]
        session.run(*command, str(root / project), env=environment, silent=True)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in into.iterdir()}


def time_of_last_change() -> str:
    """Return when the last commit was made, in seconds since the epoch, for all files built."""
    try:
        command = ["git", "log", "-1", "--format=%ct"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "1600000000"  # not a clone


@nox.session(python=OLDEST, requires=["build"], tags=["test"])
def wheels(session: nox.Session) -> None:
    """Run the tests against the three built wheels."""
    session.install(*(str(path) for path in sorted(DIST.glob("*.whl"))), *group("tests"))
    for package in PROJECTS:
        session.run(
            "python",
            "-c",
            "import sys, pathlib, sysconfig\n"
            f"import {package} as package\n"
            "installed = pathlib.Path(package.__file__).resolve()\n"
            "wanted = pathlib.Path(sysconfig.get_path('purelib')).resolve()\n"
            "sys.exit(0 if wanted in installed.parents else f'not the wheel: {installed}')",
        )
    session.run("pytest", *chosen(session, *OF_THE_WHEELS))


@nox.session(name="release-check", requires=["build"])
def release_check(session: nox.Session) -> None:
    """Look whether what is in dist/ may be released; ``-- v0.1.0`` compares it with a tag.

    Each package is then installed alone on each Python, by the sessions ``alone``.
    """
    session.install(*group("release"))
    # Elsewhere, and with other times of files: nothing of this machine may get into the archives.
    copy = Path(session.create_tmp()) / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for project in PROJECTS:
        shutil.copytree(ROOT / project, copy / project, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / ".gitignore", copy / ".gitignore")
    first = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in DIST.iterdir()}
    again = build_all(session, copy, copy / "dist")
    if first != again:
        differing = sorted(dict(first.items() ^ again.items()))
        session.error(f"a second build gave something else: {', '.join(differing)}")
    session.log("a second build gave the same %d archives", len(again))

    archives = [str(path) for path in sorted(DIST.iterdir())]
    session.run("python", "-m", "tests.packaging.built", str(DIST), *session.posargs)
    session.run("twine", "check", "--strict", *archives)

    session.install(*(archive for archive in archives if archive.endswith(".whl")))
    session.run("pytest", "tests/packaging", "-q")
    for package in PROJECTS:
        session.run("pyright", "--ignoreexternal", "--verifytypes", package)
    for python in PYTHONS:
        for project in PROJECTS:
            session.notify(f"alone-{python}(project='{project}')", ())


@nox.session(python=PYTHONS, requires=["build"])
@nox.parametrize("project", PROJECTS)
def alone(session: nox.Session, project: str) -> None:
    """Run the part of the tests that is a package's, where it is installed as a user has it."""
    place = PROJECTS.index(project)
    above = PROJECTS[place + 1 :]
    # By their paths: an installer that is told of a folder may have kept one of this version.
    wheels = [str(*DIST.glob(f"{WHEELS[name]}-*.whl")) for name in PROJECTS[: place + 1]]
    session.install(*wheels, *group(TESTED_WITH[project]))
    session.run(
        "python",
        "-c",
        "import importlib.util, pathlib, sys, sysconfig\n"
        f"import {project} as package\n"
        "home = pathlib.Path(sysconfig.get_path('purelib')).resolve()\n"
        "specs = map(importlib.util.find_spec, sys.argv[1:])\n"
        "found = [spec.name for spec in specs if spec and spec.origin]\n"
        "stray = home not in pathlib.Path(package.__file__).resolve().parents\n"
        "sys.exit(f'not alone, or not the wheel: {found} {package}' if found or stray else 0)",
        *above,
        *(["starlette", "pydantic"] if project == "cancelable" else []),
        *(["fastapi"] if project != "cancelable_fastapi" else []),
    )
    if project == "cancelable":
        session.install(f"{wheels[0]}[resources]")
    session.run("pytest", *chosen(session, *TESTS_OF[project], *TWO_BACKENDS))


@nox.session(python=PYTHONS[0], tags=["test"])
def floors(session: nox.Session) -> None:
    """Run the tests with the lowest versions that the three projects say they accept."""
    session.install("-c", pinned_floors(session), *EDITABLE, *group("tests"))
    session.log("at the floors: %s", ", ".join(lowest()))
    session.run("pytest", *chosen(session, *AT_THE_FLOORS))


def pinned_floors(session: nox.Session) -> str:
    """Write down the floors of all dependencies, and return the path of that file."""
    pins = Path(session.create_tmp()) / "floors.txt"
    pins.write_text("\n".join(lowest()) + "\n")
    return str(pins)


def lowest() -> list[str]:
    """Return the dependencies of the three projects, each pinned to its floor."""
    pins = set[str]()
    for project in PROJECTS:
        table = nox.project.load_toml(ROOT / project / "pyproject.toml")["project"]
        optional = table.get("optional-dependencies", {}).values()
        for line in [*table["dependencies"], *(line for lines in optional for line in lines)]:
            requirement = Requirement(line)
            if requirement.name.startswith("cancelable-"):
                continue
            (floor,) = (each.version for each in requirement.specifier if each.operator == ">=")
            pins.add(f"{requirement.name}=={floor}")
    return sorted(pins)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, and that the public ones are complete."""
    session.install(*EDITABLE, *group("types"))
    session.run("mypy", *SOURCES, "tests", "examples", "noxfile.py")
    session.run("pyright")
    for package in PROJECTS:
        session.run("pyright", "--ignoreexternal", "--verifytypes", package)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, spelling and who may import whom; ``-- --fix`` repairs style."""
    session.install(*EDITABLE, *group("lint"))
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("codespell")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site of the documentation into site/."""
    session.install(*EDITABLE, *group("docs"))
    # Its makers have another tool by now, and say so at each run.
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", "--clean", env=quiet)
    session.run("python", "-m", "tests.docs.reference", "site")


@nox.session
def demo(session: nox.Session) -> None:
    """Watch clients leave and handlers stop; ``-- --serve`` keeps the server for yours."""
    session.install(*EDITABLE, *group("tests"))
    # Ctrl-C reaches the program too: leave it the time to end by itself.
    session.run("python", "examples/demo.py", *session.posargs, interrupt_timeout=5)


@nox.session(name="demo-scale")
def demo_scale(session: nox.Session) -> None:
    """Start on one worker, cancel through another, and kill the broker in between."""
    session.install(*EDITABLE, *group("tests"))
    session.run("python", "examples/demo_scale.py", interrupt_timeout=5)


@nox.session(python=PYTHONS[-1])
def bench(session: nox.Session) -> None:
    """Measure what the packages cost beside what a program would use instead.

    ``-- core streams`` measures only these. wrk, where it is installed, counts requests.
    """
    session.install(*EDITABLE, *group("bench"))
    session.run("python", "benchmarks/all.py", *session.posargs)


@nox.session(python=PYTHONS[-1])
def soak(session: nox.Session) -> None:
    """Have hundreds of clients hang up at random for two minutes a server; see what is left.

    ``-- --seconds 20 --server uvicorn`` is shorter.
    """
    session.install(*EDITABLE, *group("tests"))
    session.run("python", "benchmarks/soak.py", *session.posargs, interrupt_timeout=5)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and show which lines and branches none of them takes."""
    session.install(*EDITABLE, *group("coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", silent=True)
    session.run("coverage", "report")
