"""Packs the tree that pip made into one compiled file that runs: python3 tools/pyz.py TREE FILE

The same tree makes the same bytes. That is why this is not `python -m zipapp`, which takes over the times,
the modes and the order of the tree (and drops the exit code of main).
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

MAIN = b"""import sys

if sys.version_info < (3, 11):  # what is imported below would end in a traceback
    sys.stderr.write("chatbot: Python 3.11 or newer is needed, this is %s\\n" % sys.version.split()[0])
    sys.exit(2)

from chatbot.__main__ import main

sys.exit(main())
"""

# What pip notes down: where the sources were, which Python ran, what it wrote.
NOTES = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
NEEDLESS = {".pyi", ".pyx", ".pxd", ".typed"}
BINARIES = {".so", ".pyd"}


def is_wanted(path: Path) -> bool:
    """Whether a file of the tree is needed to run it, or is a licence."""
    return path.parts[0] != "bin" and path.name not in NOTES and path.suffix not in NEEDLESS


def pack(tree: Path, target: Path) -> None:
    """Writes `target`; exits with a message if the tree is not pure Python."""
    # The code of the same file is not always the same bytes: the order of a set of constants follows the hash
    # seed, and what is shared depends on what else is in memory, of which -S leaves little.
    # Unchecked, because in the archive there is nothing to check against.
    options = ["-q", "-b", "-f", "--invalidation-mode", "unchecked-hash", "-s", tree, "-p", target.name]
    command = [sys.executable, "-s", "-S", "-m", "compileall", *options, tree]
    subprocess.run(command, env={"PYTHONHASHSEED": "0"}, check=True)

    files = {path.relative_to(tree): path for path in tree.rglob("*") if path.is_file()}
    contents = {name.as_posix(): path.read_bytes() for name, path in files.items() if is_wanted(name)}
    contents["__main__.py"] = MAIN
    if binaries := [name for name in contents if Path(name).suffix in BINARIES]:
        sys.exit(f"pyz: would run on this kind of machine only: {binaries[0]}")
    with target.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w") as archive:
            for name in sorted(contents):
                entry = zipfile.ZipInfo(name)  # of 1980
                entry.create_system = 3
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, contents[name], zipfile.ZIP_DEFLATED, 9)
    target.chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: pyz.py TREE FILE")
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
