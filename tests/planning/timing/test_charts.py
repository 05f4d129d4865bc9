"""Plans as pictures: what is drawn where, in which color."""

import numpy as np
from PIL import Image

from editcaption_mega.planning.timing.charts import (
    GIB,
    WIDTH,
    Bar,
    Lane,
    draw_memory,
    draw_memory_timeline,
    draw_timeline,
    lanes_of,
    stack_pictures,
)
from editcaption_mega.planning.timing.simulation import simulate

FORWARD, BACKWARD, IDLE, ALARM = (0, 114, 178), (230, 159, 0), (236, 238, 242), (192, 24, 43)
WEIGHTS, ACTIVATIONS, LOGITS = FORWARD, BACKWARD, (213, 94, 0)


def matches(image: Image.Image, color) -> np.ndarray:
    return (np.asarray(image) == color).all(-1)


def count(image: Image.Image, color) -> int:
    return int(matches(image, color).sum())


def rows_with(image: Image.Image, color, least: int = 20) -> dict[int, int]:
    """y -> pixels of the color, for lines with at least so many."""
    return {y: int(number) for y, number in enumerate(matches(image, color).sum(1)) if number >= least}


def test_bars_are_as_long_as_what_they_stand_for():
    """The longest line of each color: the legend's squares and the labels take from the others."""
    lanes = [
        Lane("first", [Bar("", 0.0, 1.0, "forward"), Bar("", 3.0, 4.0, "backward")]),
        Lane("second", [Bar("", 1.0, 3.0, "forward")]),
    ]
    image = draw_timeline(lanes, "Two lanes")
    forward, backward = rows_with(image, FORWARD, 30), rows_with(image, BACKWARD, 30)
    quarter = max(backward.values())
    assert 300 < quarter < WIDTH / 4
    lengths = sorted(set(forward.values()))
    assert abs(lengths[0] - quarter) <= 2 and abs(lengths[-1] - 2 * quarter) <= 3
    idle = rows_with(image, IDLE, 30)
    assert max(abs(number - 2 * quarter) for number in idle.values()) <= 5  # half of either lane
    assert min(backward) == min(forward) and max(forward) > max(backward)  # the second lane lies below


def test_micro_batches_are_written_where_there_is_room():
    roomy = draw_timeline([Lane("stage 0", [Bar("7", 0, 1, "backward"), Bar("", 1, 2, "backward")])], "")
    full = [Bar("7", i, i + 1, "backward") for i in range(500)]
    tight = draw_timeline([Lane("stage 0", full)], "")
    assert max(rows_with(roomy, BACKWARD).values()) > min(list(rows_with(roomy, BACKWARD).values())[15:-15])
    lines = set(list(rows_with(tight, BACKWARD, 100).values()))
    assert len(lines) == 1  # nothing is written in any of them


def test_a_simulated_pipeline_becomes_lanes():
    timeline = simulate([[1, 1]] * 2, [[2, 2]] * 2, 2)
    lanes = lanes_of(timeline)
    assert [lane.label for lane in lanes] == ["stage 0", "stage 1"]
    assert lanes[0].bars[:2] == [Bar("0", 0, 1, "forward", 0), Bar("1", 1, 2, "forward", 0)]
    assert {bar.shade for lane in lanes for bar in lane.bars} == {0, 1}
    assert all(lane.note == f"idle {100 * timeline.idle[0]:.0f} %" for lane in lanes)
    image = draw_timeline(lanes, "Interleaved")
    paler = tuple(round(part + (255 - part) * 0.25) for part in FORWARD)
    assert count(image, FORWARD) > 10_000 and count(image, paler) > 10_000


def test_memory_is_stacked_by_kind():
    image = draw_memory({"stage 0": {"weights": 30 * GIB, "activations": 10 * GIB}}, "Memory")
    weights, activations = (max(rows_with(image, color, 30).values()) for color in (WEIGHTS, ACTIVATIONS))
    assert abs(weights - 3 * activations) <= 6


def test_a_total_beyond_the_limit_is_red():
    roles = {"stage 0": {"weights": 30 * GIB}, "stage 1": {"weights": 20 * GIB}}
    fits, over = (count(draw_memory(roles, "", limit_bytes=limit * GIB), ALARM) for limit in (31, 29))
    none = count(draw_memory(roles, ""), ALARM)
    assert none == 0 < fits < over


def test_a_short_peak_among_many_points_is_seen():
    points = [(i, {"weights": 10 * GIB, "logits": 30 * GIB if i == 70_000 else 0}) for i in range(100_000)]
    image = draw_memory_timeline(points, "Peak")
    ceiling = min(rows_with(image, WEIGHTS, 500))
    above = image.crop((0, 130, WIDTH, ceiling))
    assert 150 < count(above, LOGITS) < 2000  # one column, three times as high as the weights
    columns = np.flatnonzero(matches(above, LOGITS)[-20])
    assert len(columns) == 1 and abs(columns[0] / WIDTH - 0.67) < 0.08


def test_memory_stays_until_the_next_point():
    """Few points: the columns between them hold the level of the last."""
    image = draw_memory_timeline([(0, 10 * GIB), (5, 40 * GIB), (10, 10 * GIB)], "Steps")
    lengths = rows_with(image, (127, 95, 168), 30).values()
    assert abs(max(lengths) - 2 * min(lengths)) <= 20 < min(lengths)  # the mark of the peak takes a few


def test_long_labels_push_the_plot_and_nothing_leaves_the_page():
    role = "stage 0, first rank of eight for experts, first rank of four for tensors"
    images = [
        draw_memory({role: {"weights": 700 * GIB}}, "Memory", limit_bytes=650 * GIB),
        draw_timeline([Lane(role, [Bar("0", 0, 1, "forward")], "idle 100 %")], "Time"),
        draw_memory_timeline([(0, 700 * GIB), (200_000, 1 * GIB)], "Memory", limit_bytes=650 * GIB),
        draw_memory({"stage 0": {f"kind of memory number {i}": GIB for i in range(20)}}, "Many kinds"),
    ]
    for image in images:
        edge = image.crop((WIDTH - 12, 0, WIDTH, image.height))
        start = image.crop((0, 0, 12, image.height))
        assert edge.getcolors() == [(12 * image.height, (255, 255, 255))] == start.getcolors()
    page = stack_pictures(images)
    assert page.size == (WIDTH, sum(image.height for image in images))


def test_nothing_to_draw_is_an_empty_plot():
    for image in (draw_timeline([], ""), draw_memory({}, ""), draw_memory_timeline([], "")):
        assert image.width == WIDTH


def test_pictures_are_saved_as_png(tmp_path):
    path = tmp_path / "plan.png"
    draw_memory({"stage 0": {"weights": GIB}}, "Memory").save(path)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == WIDTH
