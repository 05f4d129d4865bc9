"""`editcaption small-model` says what is in the folder that it wrote."""

import re

from safetensors.torch import load_file

from editcaption_mega import cli
from editcaption_mega.commands import small_model


def test_the_weights_are_counted_and_not_the_header_of_their_file(tmp_path, capsys):
    folder = tmp_path / "small"
    words = ["experts=0", "hidden_size=64", "num_layers=2", "--output", str(folder)]
    assert cli.exit_code(small_model.main, words) == 0
    (said,) = re.findall(r": ([\d,]+) random weights, ([\d.]+) MiB", capsys.readouterr().out)
    count = sum(tensor.numel() for path in folder.glob("*.safetensors") for tensor in load_file(path).values())
    assert count > 50_000 and said == (f"{count:,}", f"{4 * count / 2**20:.1f}")
