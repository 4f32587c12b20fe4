"""The set that ships."""

from __future__ import annotations

import subprocess
import sys

from nabi.data import check_labelled
from nabi.data.shipped import sms_spam


def test_sms_spam() -> None:
    train, dev = sms_spam()
    assert (len(train), len(dev)) == (3885, 541)
    for side in (train, dev):
        assert side.columns == ("text", "label") and {row["label"] for row in side} == {"ham", "spam"}
        assert all(isinstance(row["text"], str) and row["text"] for row in side)
    assert {f.code for f in check_labelled(train, dev)} == {"control_characters", "duplicates", "imbalance", "near_duplicates", "near_leakage"}


def test_reading_imports_no_array_library() -> None:
    heavy = "{'torch', 'numpy', 'pandas', 'pyarrow'}"
    code = f"import sys; from nabi.data.shipped import sms_spam; sms_spam(); print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
