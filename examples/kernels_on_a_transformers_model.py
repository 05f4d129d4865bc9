"""The log-prob kernels under a plain language model of transformers.

    python examples/kernels_on_a_transformers_model.py

A loss on the log-probs of some tokens (SFT, DPO, distillation) needs neither the logits of all tokens nor their
softmax. `linear_log_probs` takes the hidden states that predict these tokens and the LM head's weight."""

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from editcaption_mega.kernels import available_backends, linear_log_probs


def main() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=4096, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    tokens = torch.randint(0, config.vocab_size, (1, 96))
    response = slice(64, 96)  # the prompt before it is not trained on

    # As it is usually done: logits [1, 96, 4096], a softmax of all of them, and most of it thrown away.
    logits = model(tokens).logits[0, response.start - 1 : response.stop - 1].float()
    usual = logits.log_softmax(-1).gather(1, tokens[0, response, None]).squeeze(1)
    (-usual.mean()).backward()
    usual_gradient = model.lm_head.weight.grad.clone()
    model.zero_grad()

    # With the kernels: the hidden states that predict the response, and nothing else, reach the LM head.
    hidden = model.model(tokens).last_hidden_state[0, response.start - 1 : response.stop - 1]
    ours = linear_log_probs(hidden, model.lm_head.weight, tokens[0, response])
    (-ours.mean()).backward()
    gradient = model.lm_head.weight.grad

    print(f"backends here: {', '.join(available_backends())}")
    print(f"log-probs of {len(ours)} response tokens, apart by at most {(ours - usual).abs().max():.1e}")
    print(f"gradients of the LM head, apart by at most {(gradient - usual_gradient).abs().max():.1e}")


if __name__ == "__main__":
    main()
