"""What the doctor says: one dict a finding, ready for JSON."""

from __future__ import annotations

from typing import Any, Literal

Finding = dict[str, Any]
Severity = Literal["error", "warning", "info"]
_ORDER = ("error", "warning", "info")


def finding(severity: Severity, code: str, message: str, fix: str = "") -> Finding:
    """One finding.

    Args:
        severity: ``error``: it does not work, or works wrongly; ``warning``: worth a look; ``info``: as it is.
        code: a name that does not change between versions.
        message: what was found, as a sentence.
        fix: a command or an edit; empty where there is nothing to mend.
    """
    return {"severity": severity, "code": code, "message": message, "fix": fix}


def ordered(found: list[Finding]) -> list[Finding]:
    """Errors first, then warnings; else as they were found."""
    return sorted(found, key=lambda item: _ORDER.index(item["severity"]))


def size(count: float) -> str:
    """Bytes for people: ``87 MB``, ``1.2 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
