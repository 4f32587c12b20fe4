"""Data: read tables and streams, split them, check them.

``split`` is taken from ``nabi.data.split`` and ``sms_spam`` from ``nabi.data.shipped``: re-exported here, each would hide
the module or the folder that bears its name.
"""

from nabi.data.checks import Finding, check_labelled
from nabi.data.split import balanced_sample
from nabi.data.streams import Stream, stream_table
from nabi.data.tables import Table, read_table, text_of

__all__ = ["Finding", "Stream", "Table", "balanced_sample", "check_labelled", "read_table", "stream_table", "text_of"]
