"""Instructions from an endpoint: what it is asked for a pair, and what its reply is worth."""

from typing import cast

from editcaption_mega.data.text.prompt import Prompt

from .answer import Answer, Status, as_instruction
from .messages import Message, Picture, Reply


def chat_messages(prompt: Prompt, source: Picture, target: Picture) -> tuple[Message, ...]:
    """The prompt as an endpoint takes it; the same text and order as in training."""
    user = Message("user", (prompt.before_source, source, prompt.before_target, target, prompt.request))
    return (Message("system", (prompt.system,)), user) if prompt.system else (user,)


def reply_answer(reply: Reply[object]) -> Answer:
    """The instruction in a reply, or why there is none."""
    status = cast(Status, reply.status)
    return as_instruction(Answer(status, reply.text, reply.reason, reply.thought, reply.ending))
