"""The data set that ships inside the package."""

from __future__ import annotations

from importlib import resources

from nabi.data.tables import Table, read_table


def sms_spam() -> tuple[Table, Table]:
    """The SMS Spam Collection as (train, dev): 3,885 and 541 English messages in ``text``, each with ``label`` ham or spam.

    Source: Almeida, Gómez Hidalgo and Yamakami (2011), UCI Machine Learning Repository, CC BY 4.0; see sms_spam/CREDITS.md.
    """
    train, dev = (_read(f"{side}.jsonl.gz") for side in ("train", "dev"))
    return train, dev


def _read(name: str) -> Table:
    with resources.as_file(resources.files("nabi.data").joinpath("sms_spam", name)) as path:
        return read_table(path, required=["text", "label"])
