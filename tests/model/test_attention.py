"""PyTorch's varlen attention is called as each version that we support takes it; the numbers are those of the CPU."""

import sys
import types
import warnings

import pytest
import torch
import torch.nn.attention as registry
import torch.nn.attention.varlen as varlen

from editcaption_mega.model.attention import Cuts, flash_attention, segment_attention, use_flash_attention


def plain(query, key, value, cu_seqlens, key_cu_seqlens, causal, scale):
    """Segment by segment, with the causal mask at the bottom right; what flash attention computes."""
    out = []
    for i in range(len(cu_seqlens) - 1):
        q = query[cu_seqlens[i] : cu_seqlens[i + 1]].transpose(0, 1)
        k, v = (t[key_cu_seqlens[i] : key_cu_seqlens[i + 1]].transpose(0, 1) for t in (key, value))
        mask = torch.ones(q.size(1), k.size(1), dtype=torch.bool)
        mask = mask.tril(k.size(1) - q.size(1)) if causal else mask
        out.append(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=True)
        )
    return torch.cat([part.transpose(0, 1) for part in out])


def check(query, key, cu_seq_q, cu_seq_k, max_q, max_k):
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == cu_seq_q.diff().max() and max_k == cu_seq_k.diff().max()


def varlen_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
):
    check(query, key, cu_seq_q, cu_seq_k, max_q, max_k)
    return plain(query, key, value, cu_seq_q, cu_seq_k, {(-1, 0): True, (-1, -1): False}[window_size], scale)


def varlen_2_12(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1),
    enable_gqa=False,
):  # fmt: skip
    check(query, key, cu_seq_q, cu_seq_k, max_q, max_k)
    assert enable_gqa == (query.size(1) != key.size(1)), "fewer kv heads must be asked for"
    return plain(query, key, value, cu_seq_q, cu_seq_k, {(-1, 0): True, (-1, -1): False}[window_size], scale)


@pytest.mark.parametrize("version", [varlen_2_11, varlen_2_12], ids=["2.11", "2.12 on"])
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_each_signature_gets_what_it_takes(monkeypatch, version, kv_heads, causal):
    monkeypatch.setattr(varlen, "varlen_attn", version)
    g = torch.Generator().manual_seed(0)
    cuts = Cuts.of((0, 3, 4, 9), torch.device("cpu"))
    query = torch.randn(9, 4, 8, generator=g)
    key, value = (torch.randn(9, kv_heads, 8, generator=g) for _ in range(2))
    found = flash_attention(query, key, value, cuts, cuts, causal=causal, scale=0.3)
    expected = segment_attention(query, key, value, cuts, causal=causal, scale=0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("version", [varlen_2_11, varlen_2_12], ids=["2.11", "2.12 on"])
def test_shared_prompts_have_more_keys_than_queries(monkeypatch, version):
    monkeypatch.setattr(varlen, "varlen_attn", version)
    g = torch.Generator().manual_seed(1)
    queries, keys = (Cuts.of(bounds, torch.device("cpu")) for bounds in ((0, 5, 7), (0, 5, 10)))
    query, (key, value) = torch.randn(7, 4, 8, generator=g), torch.randn(2, 10, 2, 8, generator=g)
    found = flash_attention(query, key, value, queries, keys, causal=True, scale=0.3)
    expected = segment_attention(query, key, value, queries, keys, causal=True, scale=0.3)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_installed_version_has_one_of_these_signatures():
    """The arguments by which it is called are still its own."""
    import inspect

    names = list(inspect.signature(varlen.varlen_attn).parameters)
    assert names[:7] == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    assert {"scale", "window_size"} <= set(names)


@pytest.fixture
def hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def test_flash_attention_3_is_refused_where_it_cannot_be_had(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="model.flash_attention=3 needs a Hopper GPU, and PyTorch sees no GPU here"):
        use_flash_attention(3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(ValueError, match="compute capability 9.0.*this one has 8.0: set model.flash_attention=2"):
        use_flash_attention(3)


def test_its_package_is_named_where_it_is_missing(hopper, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn_interface", None)  # as if it were not installed, wherever it is
    with pytest.raises(ValueError, match=r"needs the package flash-attn-3 .*flash_attn_interface") as error:
        use_flash_attention(3)
    assert "\n" not in str(error.value) and registry.current_flash_attention_impl() is None


def test_it_is_registered_with_pytorch_and_left_again(hopper, monkeypatch):
    """A package of the same name and operators stands in, which no CUDA tensor reaches here."""
    operators = torch.library.Library("flash_attn_3", "FRAGMENT")
    for name in ("fwd", "bwd"):
        operators.define(f"{name}(Tensor query) -> Tensor")
    monkeypatch.setitem(sys.modules, "flash_attn_interface", types.ModuleType("flash_attn_interface"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that operators of aten are overridden is what was asked for
        use_flash_attention(3)
    try:
        assert registry.current_flash_attention_impl() == "FA3"
        use_flash_attention(3)
    finally:
        use_flash_attention(2)
    assert registry.current_flash_attention_impl() is None
