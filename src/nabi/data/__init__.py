"""Data: read tables, split them, check them.

``split`` is taken from ``nabi.data.split`` and ``sms_spam`` from ``nabi.data.shipped``: re-exported here, each would hide
the module or the folder that bears its name.
"""

from nabi.data.checks import Finding, check_labelled
from nabi.data.split import balanced_sample
from nabi.data.tables import Table, read_table, text_of

__all__ = ["Finding", "Table", "balanced_sample", "check_labelled", "read_table", "text_of"]
