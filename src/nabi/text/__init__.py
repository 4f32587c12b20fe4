"""From text to token ids and back, with offsets into the text as it was given."""

from nabi.text.encoding import Encoding
from nabi.text.tokenizer import Tokenizer

__all__ = ["Encoding", "Tokenizer"]
