"""TensorBoard's files, read back by TensorBoard."""

import io
import resource

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from editcaption_mega.training.loggers import Loggers
from editcaption_mega.training.loggers.tensorboard import TensorBoardLogger


def test_numbers_texts_and_images_are_there_and_steps_are_not_doubled(tmp_path):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    for done, last, factor in ((0, 4, 1), (2, 5, 10)):  # a start that was killed after step 4, and went on after step 2
        logger = TensorBoardLogger(tmp_path, done)
        logger.settings({"model.folder": "a|b", "training.steps": 5})
        for step in range(done + 1, last + 1):
            logger.scalars(step, {"train/loss": step * factor, "speed/mfu": 0.5})
        logger.text(last, "samples/1", "two\nlines")
        logger.image(last, "samples/1", pixels)
        logger.close()
    board = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0, "images": 0, "tensors": 0})
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [
        (1, 1), (2, 2), (3, 30), (4, 40), (5, 50),
    ]  # fmt: skip
    assert len(board.Scalars("speed/mfu")) == 5
    (image,) = board.Images("samples/1")
    assert image.step == 5 and np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), pixels)
    words = board.Tensors("samples/1/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert words == "    two\n    lines\n"
    settings = board.Tensors("run/settings/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "| `training.steps` | 5 |" in settings and "a\\|b" in settings


def test_a_disk_that_is_full_costs_a_line(tmp_path):
    """With the kernel's own limit on the size of a file; TensorBoard writes in a thread, and raises later."""
    said = []
    loggers = Loggers([TensorBoardLogger(tmp_path, 0)], said.append)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        for step in range(1, 300):
            loggers.scalars(step, {"train/loss": 0.5})
        loggers.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (line,) = said
    assert line.startswith("WARNING: TensorBoard ends ") and line.endswith("metrics.jsonl has every step")
