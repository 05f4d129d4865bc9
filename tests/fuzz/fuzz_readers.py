"""All readers that are tried."""

from fuzz_models import MODEL_READERS
from fuzz_pictures import PICTURE_READERS
from fuzz_replies import REPLY_READERS
from fuzz_shards import SHARD_READERS

READERS = PICTURE_READERS + SHARD_READERS + MODEL_READERS + REPLY_READERS
