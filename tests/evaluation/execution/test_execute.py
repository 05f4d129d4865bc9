"""Blind execution: measures against references written out here, and rows for all that can happen."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.execution.execute import COPY, execute, summarize
from editcaption_mega.evaluation.execution.measures import MEASURES, ClipSimilarity, measure_images, measures_of, ssim
from editcaption_mega.evaluation.record_files import read_records
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.records import Instruction
from tests.helpers import small_job
from tests.helpers.image_bytes import encoded
from tests.helpers.image_editor import EditServer, mirrored, picture_reply


def plain_ssim(a, b):
    """Wang et al. 2004 window by window, with loops."""
    x, y = (np.tensordot([0.299, 0.587, 0.114], picture.double().numpy(), 1) for picture in (a, b))
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            top = (2 * mp * mq + 0.01**2) * (2 * cov + 0.03**2)
            values.append(top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2)))
    return np.mean(values)


def test_ssim_equals_the_definition():
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 17, 23, generator=generator)
    b = (a + 0.2 * torch.randn(3, 17, 23, generator=generator)).clamp(0, 1)
    assert ssim(a, b) == pytest.approx(plain_ssim(a, b), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1.0, abs=1e-12)
    assert ssim(a[:, :4, :4], a[:, :4, :4]) == pytest.approx(1.0, abs=1e-12), "smaller than the window"
    assert ssim(a, 1 - a) < 0.2


def test_clip_similarity_comes_from_a_folder(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 50}, vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    measure = measures_of(["ssim", "clip"], str(tmp_path))["clip"]
    assert isinstance(measure, ClipSimilarity)
    a, b = torch.rand(3, 40, 40), torch.rand(3, 40, 40)
    assert measure(a, a) == pytest.approx(1.0, abs=1e-5) and measure(a, b) == pytest.approx(measure(b, a), abs=1e-6)
    assert measure(a, b) < 1.0


def test_measures_that_are_not_there_are_told(tmp_path):
    for names, told in ((["psnr"], f"expected one of {', '.join(MEASURES)}"), (["clip"], "set editor.clip")):
        with pytest.raises(ValueError, match=told):
            measures_of(names)
    with pytest.raises(ValueError, match="found no config.json"):
        measures_of(["clip"], str(tmp_path))


def test_each_instruction_ends_as_a_measure_or_a_reason(tmp_path):
    benchmark = Benchmark("set", small_job.write_shards(tmp_path / "shards", count=4))
    texts = ["mirror", "fails", None, None]
    rows = {
        pair_id: Instruction(
            benchmark="set", id=pair_id, model="m", instruction=text, reason="refused: no" if text is None else None
        )
        for pair_id, text in zip(benchmark.ids, texts, strict=True)
    }
    with EditServer({"fails": [400]}) as server:
        editor = Endpoint(server.url, "editor")
        found = execute(benchmark, {"m": rows}, editor, tmp_path / "run", measures_of(["ssim"]))
    first, *others = found["m"]
    pictures = (Image.open(io.BytesIO(data)) for data in (mirrored(benchmark.item(0).source), benchmark.item(0).target))
    a, b = (torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255 for picture in pictures)
    assert first.measures == {"ssim": pytest.approx(ssim(a, b), abs=1e-9)}
    assert [row.reason and row.reason[:8] for row in others] == ["HTTP 400", "refused:", "refused:"]
    assert all(row.measures for row in found[COPY])
    assert read_records(tmp_path / "run/executions/m/set.jsonl", type(first)) == found["m"]
    one, copy = summarize(found)
    assert (one.model, one.executed, one.failed) == ("m", 1, 3) and (copy.model, copy.executed) == (COPY, 4)


def test_what_the_editor_sends_is_compared_as_everywhere_or_is_a_reason(tmp_path):
    """Transparent is on white, as in every picture; cut off is that row's reason, and asked again by the next run."""
    benchmark = Benchmark("set", small_job.write_shards(tmp_path / "shards", count=3))
    names = ["clear", "cut", "same"]
    rows = {
        pair_id: Instruction(benchmark="set", id=pair_id, model="m", instruction=name)
        for pair_id, name in zip(benchmark.ids, names, strict=True)
    }
    targets = [Image.open(io.BytesIO(benchmark.item(i).target)).convert("RGB") for i in range(3)]
    clear = targets[0].convert("RGBA")
    mask = Image.new("L", clear.size, 255)
    mask.paste(0, (0, 0, clear.width, clear.height // 2))
    black = Image.composite(clear, Image.new("RGBA", clear.size), mask)
    black.putalpha(mask)  # what can't be seen is black
    white = Image.composite(targets[0], Image.new("RGB", clear.size, "white"), mask)
    answers = {
        "clear": [picture_reply(encoded(black))], "cut": [picture_reply(encoded(targets[1])[:200])] * 2,
        "same": [picture_reply(encoded(targets[2], "WEBP", lossless=True))],
    }  # fmt: skip
    with EditServer(answers) as server:
        editor = Endpoint(server.url, "editor", max_attempts=2)
        found = execute(benchmark, {"m": rows}, editor, tmp_path / "run", measures_of(["ssim"]))["m"]
        again = execute(benchmark, {"m": rows}, editor, tmp_path / "run", measures_of(["ssim"]))["m"]
    expected = measure_images(encoded(white), benchmark.item(0).target, {"ssim": ssim})["ssim"]
    assert found[0].measures["ssim"] == pytest.approx(expected, abs=1e-9) and expected < 1
    assert found[1].measures is None and "truncated or damaged image" in found[1].reason
    assert found[2].measures["ssim"] == pytest.approx(1.0, abs=1e-9)
    assert again[0] == found[0] and again[1].measures and server.calls == {"clear": 1, "cut": 3, "same": 1}
    assert (tmp_path / "run/cache/calls.jsonl").is_file()


def test_a_result_of_another_size_is_brought_to_the_target():
    def png(size):
        out = io.BytesIO()
        Image.new("RGB", size, (90, 20, 200)).save(out, "PNG")
        return out.getvalue()

    assert measure_images(png((40, 20)), png((80, 60)), {"ssim": ssim})["ssim"] == pytest.approx(1.0, abs=1e-6)
