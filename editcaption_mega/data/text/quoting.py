"""Text of people and models on its way into a prompt that somebody else's tokenizer reads.

A server turns `<|im_end|>` inside a prompt into its control token, whoever wrote it. Inside a JSON string the same
text can be told without the characters that open such tokens, and every model reads JSON.
"""

import json

# `<|im_end|>`, `</s>`, `<start_of_turn>`; `[INST]`, `[IMG]`: what control tokens of open vocabularies begin with.
_OPENING = str.maketrans({letter: f"\\u{ord(letter):04x}" for letter in "<["})


def escaped(text: str) -> str:
    """`text` as it stands between the quotation marks of a JSON string, without `<` and `[` (`\\u003c`, `\\u005b`).

    Text without control characters, quotation marks, backslashes and these two stays as it is."""
    return json.dumps(text, ensure_ascii=False)[1:-1].translate(_OPENING)


def quoted(text: str) -> str:
    """`text` as one JSON string that no tokenizer reads a control token in; `json.loads` gives the text back."""
    return f'"{escaped(text)}"'
