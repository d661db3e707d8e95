"""Fetches what the page has of others again, by npm, and compares: python3 tools/vendor.py [--write]

chatbot/page/vendor/vendor.json names each package with its exact version, and each file with its SHA-256.
Without --write nothing is changed, and the exit code is 1 if a file differs. With it, files and checksums are
written anew.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).parents[1] / "chatbot" / "page" / "vendor"
LIST = VENDOR / "vendor.json"


def fetch(name: str, version: str) -> dict[str, bytes]:
    """All files of a package, by their paths in it."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--pack-destination", folder, f"{name}@{version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        [archive] = Path(folder).glob("*.tgz")
        files = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                if (content := tar.extractfile(member)) is not None:
                    files[member.name.partition("/")[2]] = content.read()
        return files


def main(write: bool) -> int:
    """Compares (or writes) each file; returns how many differ."""
    packages = json.loads(LIST.read_text(encoding="utf-8"))
    differing = 0
    for name, package in packages.items():
        published = fetch(name, package["version"])
        for target, file in package["files"].items():
            path = VENDOR / target
            body = published[file["from"]]
            digest = hashlib.sha256(body).hexdigest()
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
                file["sha256"] = digest
            elif digest != file.get("sha256") or not path.is_file() or path.read_bytes() != body:
                print(f"{target} is not {file['from']} of {name} {package['version']}")
                differing += 1
        print(f"{name} {package['version']}: {len(package['files'])} files, {package['license']}")
    if write:
        LIST.write_text(json.dumps(packages, indent=1) + "\n", encoding="utf-8")
    return differing


if __name__ == "__main__":
    sys.exit(1 if main("--write" in sys.argv[1:]) else 0)
