"""The project's chores, each in a virtual environment of its own.

``nox`` runs what a change has to pass; ``nox -l`` lists everything. Nothing but Python and the
package index is needed: interpreters are used where they are found and never downloaded.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.10.16"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "types", "tests", "core_alone", "wheels", "floors"]

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
PROJECTS = ["cancelable", "cancelable_starlette", "cancelable_fastapi"]
SOURCES = [f"{project}/src" for project in PROJECTS]
EDITABLE = [argument for project in PROJECTS for argument in ("-e", f"./{project}")]

# The Pythons that are promised, and the one that runs nox, so that a machine which has only a
# newer one still tests something.
PYTHONS = ["3.11", "3.12", "3.13"]
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
if HERE not in PYTHONS:
    PYTHONS.append(HERE)

TWO_BACKENDS = ["--backend", "asyncio", "--backend", "trio"]
# Killing and freezing brokers takes minutes and does not depend on the version of Python: the
# newest one does it for all.
ONE_ROUND = [
    *TWO_BACKENDS,
    "--ignore=tests/bus/test_faults.py",
    "--ignore=tests/bus/test_demo_scale.py",
]
# Files go to a few processes side by side: most tests wait for servers and brokers.
SIDE_BY_SIDE = ["-n", "logical", "--maxprocesses", "4", "--dist", "loadfile"]


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

    The newest Python runs them on every backend, the others on asyncio and Trio: uvloop and
    eager tasks differ from asyncio in what does not change with the version.
    """
    session.install(*EDITABLE, *group("tests"))
    session.run("pytest", *chosen(session, *([] if session.python == PYTHONS[-1] else ONE_ROUND)))


@nox.session(tags=["test"])
def core_alone(session: nox.Session) -> None:
    """Run the tests of the core where nothing of the web is installed."""
    session.install("-e", "./cancelable", *group("core"))
    absent = ("fastapi", "psutil", "pydantic", "starlette")
    session.run(
        "python",
        "-c",
        "import importlib.util, sys\n"
        "import cancelable, cancelable.bus, cancelable.testing\n"
        f"found = [name for name in {absent} if importlib.util.find_spec(name)]\n"
        "sys.exit(f'not alone here: {found}' if found else 0)",
    )
    session.install("-e", "./cancelable[resources]")
    session.run("pytest", *chosen(session, "tests/core", *TWO_BACKENDS))


@nox.session
def build(session: nox.Session) -> None:
    """Build the three source distributions, and from these the three wheels, into dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    session.install(*group("build"))
    for project in PROJECTS:
        session.run(
            "python", "-m", "build", "--no-isolation", "--outdir", str(DIST), project, silent=True
        )
    built = sorted(path.name for path in DIST.iterdir())
    session.log("built %s", ", ".join(built))
    if len(built) != 2 * len(PROJECTS):
        session.error("expected one sdist and one wheel of each project")


@nox.session(requires=["build"], tags=["test"])
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
    session.run("pytest", *chosen(session, *ONE_ROUND))


@nox.session(python=PYTHONS[0], tags=["test"])
def floors(session: nox.Session) -> None:
    """Run the tests with the lowest versions that the three projects say they accept."""
    pins = Path(session.create_tmp()) / "floors.txt"
    pins.write_text("\n".join(lowest()) + "\n")
    session.install("-c", str(pins), *EDITABLE, *group("tests"))
    session.log("at the floors: %s", ", ".join(lowest()))
    session.run("pytest", *chosen(session, *ONE_ROUND))


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
    """Measure what the packages cost beside what a program would use instead."""
    session.install(*EDITABLE, *group("tests"), *group("bench"))
    session.run("python", "benchmarks/core.py", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests and show which lines and branches none of them takes."""
    session.install(*EDITABLE, *group("coverage"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", silent=True)
    session.run("coverage", "report")
