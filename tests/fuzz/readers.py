"""All readers that are tried."""

from .models import MODEL_READERS
from .pictures import PICTURE_READERS
from .replies import REPLY_READERS
from .shards import SHARD_READERS

READERS = PICTURE_READERS + SHARD_READERS + MODEL_READERS + REPLY_READERS
