"""``card``: README.md of a corpus, filled from its manifest and by counting it: no sentence that was not measured, no blank to fill.

The metadata is what the hub reads (https://huggingface.co/docs/hub/datasets-cards); a corpus that is pushed as it is loads with its splits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nabi.data.corpus.languages import PROGRAMMING
from nabi.data.corpus.manifest import read_manifest
from nabi.data.corpus.stats import Stats, corpus_stats
from nabi.pages.markdown import MARK, escaped, fenced, table, write_card, yaml

SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7), ("10M<n<100M", 10**8),
         ("100M<n<1B", 10**9), ("1B<n<10B", 10**10), ("10B<n<100B", 10**11), ("100B<n<1T", 10**12))  # fmt: skip
# ids of the hub's list of licences, among those that we can tell
LICENSES = {
    "0bsd", "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "epl-1.0", "epl-2.0", "eupl-1.2", "gpl-2.0", "gpl-3.0", "isc", "lgpl-2.1", "lgpl-3.0",
    "mit", "mpl-2.0", "ms-pl", "ofl-1.1", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
SPLITS = {"train": "train", "dev": "validation"}  # ours -> the hub's
FEW = 20


def write_corpus_card(out: str | Path) -> bool:
    """Count the corpus in a folder and write its card there, unless a README.md that is not ours is there; says whether it was written.

    Raises:
        DataError: the folder holds no finished corpus, or a file of it was changed.
        StorageError: the card could not be written.
    """
    out = Path(out)
    manifest = read_manifest(out)
    return write_card(out / "README.md", card(out.absolute().name, manifest, corpus_stats(out)))


def card(name: str, manifest: Mapping[str, Any], stats: Stats) -> str:
    """The whole card."""
    flow, size = manifest["documents"], manifest["bytes"]
    lines = ["---", *yaml(metadata(name, manifest)), "---", MARK, "", f"# {escaped(name)}", ""]
    lines += [f"A corpus of {flow['out']:,} documents with {size['out']:,} bytes of text, from {_count(len(manifest['sources']), 'source')}.", ""]
    splits = ", ".join(f"{each['documents']:,} in {split}" for split, each in manifest["splits"].items())
    lines += [f"Each row has `text`, `path`, and what is known of the document, such as `license` and `language`. There are {splits or 'no documents'}.", ""]
    lines += ["## Use", "", *fenced(_usage(name, manifest), "python"), ""]
    lines += ["## Sources", "", *_sources(manifest), ""]
    lines += ["## What was left out, and why", "", *_flow(manifest), ""]
    lines += ["## Languages", "", *_counted(manifest["languages"], "language"), "", "## Licences", "", *_counted(manifest["licenses"], "licence"), ""]
    lines += ["## Length", "", *_lengths(stats), ""]
    lines += ["## Personal data and changes", "", *_changes(manifest), ""]
    lines += ["## Limits that were measured", "", *_limits(manifest), ""]
    lines += ["## How it was made", "", *_made(manifest)]
    return "\n".join(lines) + "\n"


def metadata(name: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The card's YAML block as plain data; what is not known is left out."""
    found: dict[str, Any] = {"pretty_name": name}
    licenses = sorted({_license(each) for each in manifest["licenses"] if each})
    if licenses:
        found["license"] = licenses[0] if len(licenses) == 1 else licenses
    languages = sorted({"code" if each in PROGRAMMING else each for each in manifest["languages"] if re.fullmatch(r"[a-z]{2,3}", each) or each in PROGRAMMING})
    if languages:
        found["language"] = languages
    documents = manifest["documents"]["out"]
    found["size_categories"] = [next((label for label, most in SIZES if documents < most), "n>1T")]
    found["task_categories"] = ["text-generation", "fill-mask"]
    found["tags"] = ["nabi"]
    files = [{"split": SPLITS[split], "path": f"{split}-*.jsonl.zst"} for split in manifest["splits"]]
    if files:
        found["configs"] = [{"config_name": "default", "data_files": files}]
        splits = [{"name": SPLITS[split], "num_bytes": each["bytes"], "num_examples": each["documents"]} for split, each in manifest["splits"].items()]
        found["dataset_info"] = {"splits": splits, "download_size": sum(file["size"] for file in manifest["files"]), "dataset_size": manifest["bytes"]["out"]}
    return found


def _license(spdx: str) -> str:
    """The hub's id of an SPDX expression."""
    plain = re.sub(r"-(only|or-later)$", "", spdx.lower())
    return plain if plain in LICENSES else "other"


def _usage(name: str, manifest: Mapping[str, Any]) -> str:
    split = SPLITS[next(iter(manifest["splits"]), "train")]
    return f'from datasets import load_dataset\n\nrows = load_dataset({f"./{name}"!r}, split="{split}", streaming=True)\nprint(next(iter(rows))["text"])'


def _sources(manifest: Mapping[str, Any]) -> list[str]:
    rows = []
    for source in manifest["sources"]:
        lost = sum(reason["count"] for reason in source["unreadable"].values())
        counts = (source["read"]["documents"], source["kept"]["documents"], source["kept"]["bytes"], lost)
        rows.append((source["path"], source["kind"], *(f"{count:,}" for count in counts)))
    return table(("source", "kind", "documents read", "kept", "bytes kept", "unreadable"), rows)


def _flow(manifest: Mapping[str, Any]) -> list[str]:
    rows = [("read", f"{manifest['documents']['in']:,}", f"{manifest['bytes']['in']:,}", "")]
    for step in manifest["steps"]:
        for reason, each in step["dropped"].items():
            rows.append((f"{step['name']}: {reason}", f"-{each['documents']:,}", f"-{each['bytes']:,}", ", ".join(each["examples"][:2])))
    for kind in ("exact", "near"):
        each = manifest["duplicates"][kind]
        if each["documents"]:
            rows.append((f"{kind} duplicates", f"-{each['documents']:,}", f"-{each['bytes']:,}", ""))
    if changed := manifest["bytes"]["taken off by changes"]:
        rows.append(("taken off by changes", "", f"{-changed:,}", ""))
    rows.append(("kept", f"{manifest['documents']['out']:,}", f"{manifest['bytes']['out']:,}", ""))
    lines = table(("", "documents", "bytes", "such as"), rows)
    lost: dict[str, int] = {}
    for source in manifest["sources"]:
        for reason, each in source["unreadable"].items():
            lost[reason] = lost.get(reason, 0) + each["count"]
    if lost:
        told = ", ".join(f"{escaped(reason)} {count:,}" for reason, count in sorted(lost.items()))
        lines += ["", f"Not among them is what could not be read as text: {told}."]
    return lines


def _counted(names: Mapping[str, Any], what: str) -> list[str]:
    if set(names) <= {""}:
        return [f"No {what} was determined."]
    rows = [(name or "not known", f"{each['documents']:,}", f"{each['bytes']:,}") for name, each in list(names.items())[:FEW]]
    more = len(names) - FEW
    return table((what, "documents", "bytes"), rows) + (["", f"And {more:,} more, in the manifest."] if more > 0 else [])


def _lengths(stats: Stats) -> list[str]:
    rows = []
    for name, lengths in (("bytes", stats.bytes), ("lines", stats.lines)):
        facts = lengths.facts()
        rows.append((name, *(f"{facts[key]:,}" for key in ("mean", "least", "p5", "p50", "p95", "most"))))
    return table(("of a document", "mean", "least", "5 % have at most", "half have at most", "95 % have at most", "most"), rows)


def _changes(manifest: Mapping[str, Any]) -> list[str]:
    rows = [(step["name"], what, f"{count:,}") for step in manifest["steps"] for what, count in step["changed"].items()]
    return table(("step", "what was changed", "how often"), rows) if rows else ["No text was changed: personal data was not looked for, or none was found."]


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    documents, lines = manifest["documents"]["out"], []
    for key, what in (("licenses", "licence"), ("languages", "language")):
        unknown = manifest[key].get("", {"documents": 0})["documents"]
        if unknown:
            lines.append(f"- Of {unknown:,} documents ({100 * unknown / documents:.1f} %) the {what} is not known.")
    recipe, capped = manifest["recipe"], manifest["duplicates"].get("capped", 0)
    if not recipe["exact"]:
        lines.append("- Exact duplicates were not looked for.")
    if not recipe["near"]:
        lines.append("- Near duplicates were not looked for.")
    if capped:
        lines.append(f"- {capped:,} documents were kept although not every candidate for a near duplicate of them was compared.")
    return lines or ["None: every document has a language and a licence, and duplicates were looked for."]


def _made(manifest: Mapping[str, Any]) -> list[str]:
    recipe = {key: value for key, value in manifest["recipe"].items() if key != "sources"}
    steps = [step["name"] for step in manifest["steps"]]
    rows = [("steps", ", ".join(steps) or "none"), *((key, _said(value)) for key, value in recipe.items() if key != "cleaning")]
    rows += [("digest of the input", manifest["input"]["digest"]), *manifest["versions"].items()]
    return [*table(("", ""), rows), "", "The recipe with all settings, each file's sha256 and more examples are in `manifest.json`."]


def _said(value: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' if number != 1 else ''}"
