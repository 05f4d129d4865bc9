"""All readers that are tried."""

from fuzz_files import FILE_READERS
from fuzz_replies import REPLY_READERS

READERS = FILE_READERS + REPLY_READERS
