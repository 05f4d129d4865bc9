"""Control tokens of open models, as text: what no prompt may hold, and what is no part of an answer."""

import re

# `<|im_end|>` of Qwen, Llama, gpt-oss and Cohere, DeepSeek's with full-width bars; Gemma's `<start_of_turn>` and
# `<unused94>`, T5's, `</s>`; Mistral's `[INST]`, BERT's `[SEP]`; Llama 2's `<<SYS>>`.
CONTROL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{0,40}[|｜]>|"
    r"</?s>|<(?:bos|eos|pad|unk|endoftext|(?:start|end)_of_(?:turn|image|utterance)|unused\d{1,4}|extra_id_\d{1,3})>|"
    r"\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG|IMG_BREAK|IMG_END|PAD|CLS|SEP|UNK)\]|"
    r"<</?SYS>>"
)
