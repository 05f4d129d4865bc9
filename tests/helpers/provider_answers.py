"""The documented errors and endings of the servers that are met, as their bodies are, and what each has to mean.

meaning: "ok", "truncated", "refused", "malformed" (asked again), "again" (failed, asked again), "row" (failed, that
row's own), "stop" (ends the run: wrong key, no money), "first" (ends the run unless a reply has come before).
docs/evaluation.md shows the same in short."""

import json
from typing import Any, NamedTuple


class Row(NamedTuple):
    provider: str
    what: str
    http: int
    body: Any  # JSON, or text where the server sends none
    meaning: str
    words: str  # that the reason holds
    headers: dict[str, str] = {}
    wait: float | None = None  # seconds that the server asks for


def completion(ending: Any, message: Any = "missing", **more: Any) -> dict:
    choice = {"index": 0, "finish_reason": ending}
    if message != "missing":
        choice["message"] = {"role": "assistant", "content": message} if not isinstance(message, dict) else message
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {"id": "c-1", "object": "chat.completion", "model": "m-1", "choices": [choice], "usage": usage} | more


def openai(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def gemini(code: int, status: str, message: str, *details: dict) -> list[dict]:
    return [{"error": {"code": code, "message": message, "status": status, "details": list(details)}}]


def anthropic(kind: str, message: str) -> dict:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_011"}


def served(code: int, kind: str, message: str) -> dict:
    """vLLM's (until 0.9) and SGLang's form."""
    return {"object": "error", "message": message, "type": kind, "param": None, "code": code}


def nested(code: int, kind: str, message: str) -> dict:
    """vLLM's form since 0.10."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def google(name: str, **values: Any) -> dict:
    return {"@type": f"type.googleapis.com/google.rpc.{name}", **values}


TEXT = "Make the dress pink."
KEY_REASON = google("ErrorInfo", reason="API_KEY_INVALID", domain="googleapis.com")
PER_DAY = google("QuotaFailure", violations=[{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}])
PER_MINUTE = google("QuotaFailure", violations=[{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}])

ROWS = [
    # OpenAI, and Azure's filter
    Row("OpenAI", "stop", 200, completion("stop", TEXT), "ok", ""),
    Row("OpenAI", "length", 200, completion("length", TEXT), "truncated", "max_tokens"),
    Row("OpenAI", "length without text", 200, completion("length", ""), "row", "raise max_tokens"),
    Row("OpenAI", "content_filter", 200, completion("content_filter", None), "refused", "content filter"),
    Row("OpenAI", "refusal", 200, completion("stop", {"content": None, "refusal": "I can't."}), "refused", "I can't."),
    Row("OpenAI", "tool_calls", 200, completion("tool_calls", None), "malformed", "tool"),
    Row("OpenAI", "wrong key", 401, openai("Incorrect API key provided: sk-..x.", "invalid_request_error",
        "invalid_api_key"), "stop", "Incorrect API key"),
    Row("OpenAI", "no key", 401, openai("You didn't provide an API key.", "invalid_request_error"), "stop", "API key"),
    Row("OpenAI", "region", 403, openai("Country, region, or territory not supported", "request_forbidden",
        "unsupported_country_region_territory"), "first", "not supported"),
    Row("OpenAI", "unknown model", 404, openai("The model `x` does not exist", "invalid_request_error",
        "model_not_found"), "first", "does not exist"),
    Row("OpenAI", "rate limit", 429, openai("Rate limit reached for requests", "requests", "rate_limit_exceeded"),
        "again", "Rate limit", {"Retry-After": "7"}, 7.0),
    Row("OpenAI", "rate limit in milliseconds", 429, openai("Rate limit reached", "tokens", "rate_limit_exceeded"),
        "again", "Rate limit", {"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
    Row("OpenAI", "no money", 429, openai("You exceeded your current quota", "insufficient_quota",
        "insufficient_quota"), "stop", "quota"),
    Row("OpenAI", "account not active", 429, openai("Your account is not active", "billing_not_active",
        "billing_not_active"), "stop", "not active"),
    Row("OpenAI", "too long", 400, openai("This model's maximum context length is 128000 tokens",
        "invalid_request_error", "context_length_exceeded", "messages"), "row", "context length"),
    Row("OpenAI", "unknown parameter", 400, openai("Unsupported parameter: 'max_tokens'", "invalid_request_error",
        "unsupported_parameter", "max_tokens"), "first", "extra: {max_tokens: null, max_completion_tokens: N}"),
    Row("OpenAI", "unknown field of images", 400, openai("Unknown parameter: 'response_format'.",
        "invalid_request_error", "unknown_parameter", "response_format"), "first", "extra: {response_format: null}"),
    Row("OpenAI", "unsupported value", 400, openai("Unsupported value: 'temperature' does not support 0.0 with this "
        "model.", "invalid_request_error", "unsupported_value", "temperature"), "first", "extra: {temperature: null}"),
    Row("OpenAI", "account flagged", 401, openai("Your account was flagged for violating our usage policies",
        "invalid_request_error", "account_deactivated"), "stop", "account was flagged"),
    Row("OpenAI", "organization flagged", 403, openai("Your organization has been flagged; see our usage policies",
        "invalid_request_error"), "stop", "organization has been flagged"),
    Row("OpenAI", "key of a policy", 401, openai("A content policy", "invalid_request_error"), "stop", "policy"),
    Row("OpenAI", "old model", 410, openai("This model was flagged for deprecation", "invalid_request_error"), "first",
        "deprecation"),
    Row("OpenAI", "unknown model of moderation", 404, openai("The model `text-moderation` does not exist",
        "invalid_request_error"), "first", "does not exist"),
    Row("OpenRouter", "flagged input", 403, {"error": {"code": 403, "message": "input flagged", "metadata": {
        "reasons": ["violence"]}}}, "refused", "input flagged"),
    Row("Mistral", "unknown field", 422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg":
        "Extra inputs are not permitted"}]}, "first", "extra: {seed: null}"),
    Row("Gemini", "unknown field", 400, gemini(400, "INVALID_ARGUMENT", 'Invalid JSON payload received. Unknown name '
        '"seed": Cannot find field.'), "first", "extra: {seed: null}"),
    Row("OpenAI", "picture refused", 400, openai("Your request was rejected as a result of our safety system.",
        "image_generation_user_error", "moderation_blocked"), "refused", "safety system"),
    Row("OpenAI", "policy", 400, openai("Invalid prompt: flagged as potentially violating our usage policy.",
        "invalid_request_error", "invalid_prompt"), "refused", "usage policy"),
    Row("OpenAI", "server error", 500, openai("The server had an error", "server_error"), "again", "had an error"),
    Row("OpenAI", "overloaded", 503, openai("The engine is currently overloaded", "overloaded_error"), "again",
        "overloaded"),
    Row("Azure", "filter", 400, {"error": {"message": "The response was filtered", "type": None, "code":
        "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "refused", "filtered"),
    Row("Azure", "wrong key", 401, {"error": {"code": "401",
        "message": "Access denied due to invalid subscription key"}},
        "stop", "subscription key"),
    # Gemini through its OpenAI-compatible address: errors come in a list, a choice may lack its message
    Row("Gemini", "stop", 200, completion("stop", TEXT), "ok", ""),
    Row("Gemini", "length without message", 200, completion("length"), "row", "raise max_tokens"),
    Row("Gemini", "filter without message", 200, completion("content_filter: PROHIBITED_CONTENT"), "refused",
        "prohibited"),
    Row("Gemini", "SAFETY", 200, completion("SAFETY", {"role": "assistant"}), "refused", "safety"),
    Row("Gemini", "RECITATION", 200, completion("recitation"), "refused", "recitation"),
    Row("Gemini", "prompt blocked", 200, {"choices": [], "prompt_feedback": {"block_reason": "PROHIBITED_CONTENT"}},
        "refused", "content filter"),
    Row("Gemini", "stop without message", 200, completion("stop"), "malformed", "empty answer"),
    Row("Gemini", "wrong key", 400, gemini(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.",
        KEY_REASON), "stop", "API key not valid"),
    Row("Gemini", "wrong key in other words", 400, gemini(400, "INVALID_ARGUMENT", "Ung\u00fcltig", KEY_REASON),
        "stop", "Ung\u00fcltig"),
    Row("Gemini", "expired key", 400, gemini(400, "INVALID_ARGUMENT", "API key expired. Please renew the API key."),
        "stop", "expired"),
    Row("Gemini", "no key", 400, gemini(400, "INVALID_ARGUMENT", "Missing or invalid Authorization header."), "stop",
        "Authorization"),
    Row("Gemini", "leaked key", 403, gemini(403, "PERMISSION_DENIED", "Your API key was reported as leaked."), "stop",
        "leaked"),
    Row("Gemini", "wrong key, bare object", 400, gemini(400, "INVALID_ARGUMENT", "API key not valid.")[0], "stop",
        "not valid"),
    Row("Gemini", "bad picture", 400, gemini(400, "INVALID_ARGUMENT", "Unable to process input image."), "row",
        "input image"),
    Row("Gemini", "region", 400, gemini(400, "FAILED_PRECONDITION", "User location is not supported for the API use."),
        "row", "location"),
    Row("Gemini", "unknown model", 404, gemini(404, "NOT_FOUND", "models/x is not found"), "first", "not found"),
    Row("Gemini", "per minute", 429, gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", PER_MINUTE,
        google("RetryInfo", retryDelay="3.5s")), "again", "quota", {}, 3.5),
    Row("Gemini", "per day", 429, gemini(429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.", PER_DAY,
        google("RetryInfo", retryDelay="44s")), "stop", "quota"),
    Row("Gemini", "overloaded", 503, gemini(503, "UNAVAILABLE", "The model is overloaded."), "again", "overloaded"),
    Row("Gemini", "deadline", 504, gemini(504, "DEADLINE_EXCEEDED", "Deadline expired"), "again", "Deadline"),
    Row("Gemini", "internal", 500, gemini(500, "INTERNAL", "An internal error has occurred."), "again", "internal"),
    # Anthropic's own form, which compatible addresses and gateways pass on
    Row("Anthropic", "end_turn", 200, completion("end_turn", TEXT), "ok", ""),
    Row("Anthropic", "stop_sequence", 200, completion("stop_sequence", TEXT), "ok", ""),
    Row("Anthropic", "max_tokens", 200, completion("max_tokens", TEXT), "truncated", "max_tokens"),
    Row("Anthropic", "refusal", 200, completion("refusal", ""), "refused", "refusal"),
    Row("Anthropic", "context window", 200, completion("model_context_window_exceeded", TEXT), "truncated", "cut off"),
    Row("Anthropic", "wrong key", 401, anthropic("authentication_error", "invalid x-api-key"), "stop", "x-api-key"),
    Row("Anthropic", "no money", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the "
        "Anthropic API."), "stop", "credit balance"),
    Row("Anthropic", "billing", 402, anthropic("billing_error", "Your account has an issue"), "stop", "account"),
    Row("Anthropic", "permission", 403, anthropic("permission_error", "Your key may not use this"), "first", "may not"),
    Row("Anthropic", "unknown model", 404, anthropic("not_found_error", "model: x"), "first", "model: x"),
    Row("Anthropic", "too large", 413, anthropic("request_too_large", "Request exceeds the maximum size"), "row",
        "maximum"),
    Row("Anthropic", "bad request", 400, anthropic("invalid_request_error", "image exceeds 5 MB maximum"), "row",
        "5 MB"),
    Row("Anthropic", "rate limit", 429, anthropic("rate_limit_error", "This request would exceed your rate limit"),
        "again", "rate limit", {"retry-after": "12"}, 12.0),
    Row("Anthropic", "api_error", 500, anthropic("api_error", "Internal server error"), "again", "Internal"),
    Row("Anthropic", "timeout", 504, anthropic("timeout_error", "Request timed out"), "again", "timed out"),
    Row("Anthropic", "overloaded", 529, anthropic("overloaded_error", "Overloaded"), "again", "Overloaded"),
    # vLLM
    Row("vLLM", "stop", 200, completion("stop", {"content": TEXT, "reasoning_content": None, "tool_calls": []}), "ok",
        ""),
    Row("vLLM", "length in a thought", 200, completion("length", {"content": None, "reasoning": "The dress"}), "row",
        "raise max_tokens"),
    Row("vLLM", "abort", 200, completion("abort", "Make the"), "again", "broke off"),
    Row("vLLM", "no such model", 404, served(404, "NotFoundError", "The model `x` does not exist."), "first",
        "does not exist"),
    Row("vLLM", "no such model, newer", 404, nested(404, "NotFoundError", "The model `x` does not exist."), "first",
        "does not exist"),
    Row("vLLM", "too long", 400, served(400, "BadRequestError", "This model's maximum context length is 4096 tokens."),
        "row", "context length"),
    Row("vLLM", "too many pictures", 400, nested(400, "BadRequestError", "At most 1 image(s) may be provided"), "row",
        "At most"),
    Row("vLLM", "wrong key", 401, {"error": "Unauthorized"}, "stop", "Unauthorized"),
    Row("vLLM", "engine died", 500, nested(500, "InternalServerError", "EngineCore encountered an issue"), "again",
        "EngineCore"),
    Row("vLLM", "starting", 503, "", "again", "HTTP 503"),
    # SGLang
    Row("SGLang", "stop", 200, completion("stop", TEXT, metadata={"weight_version": "default"}), "ok", ""),
    Row("SGLang", "its own form of an ending", 200, completion({"type": "length", "length": 16}, TEXT), "truncated",
        "cut off"),
    Row("SGLang", "abort", 200, completion("abort", ""), "again", "broke off"),
    Row("SGLang", "too long", 400, served(400, "BadRequestError", "The input (9000 tokens) is longer than the model's "
        "context length (4096 tokens)."), "row", "context length"),
    Row("SGLang", "wrong key", 401, {"error": "Unauthorized"}, "stop", "Unauthorized"),
    Row("SGLang", "queue full", 503, served(503, "ServiceUnavailable", "The request queue is full."), "again", "queue"),
    # transformers serve (FastAPI)
    Row("transformers serve", "stop", 200, completion("stop", TEXT, usage=None), "ok", ""),
    Row("transformers serve", "length", 200, completion("length", TEXT), "truncated", "cut off"),
    Row("transformers serve", "unexpected field", 422, {"detail": "Unexpected fields in the request: {'top_k'}"},
        "row", "top_k"),
    Row("transformers serve", "validation", 422, {"detail": [{"loc": ["body", "model"], "msg": "Field required"}]},
        "row",
        "Field required"),
    Row("transformers serve", "wrong path", 404, {"detail": "Not Found"}, "first", "Not Found"),
    Row("transformers serve", "error", 500, "Internal Server Error", "again", "HTTP 500"),
    # What stands between
    Row("gateway", "error inside 200", 200, {"error": {"code": 502, "message": "upstream died"}}, "again",
        "upstream died"),
    Row("gateway", "wrong key inside 200", 200, {"error": {"code": 401, "message": "No auth credentials"}}, "stop",
        "credentials"),
    Row("gateway", "broke off", 200, completion("error", "Make", error=None), "again", "broke off"),
    Row("gateway", "error as text in text", 400, {"error": {"message": json.dumps(gemini(400, "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.")), "code": 400}}, "stop", "API key not valid"),
    Row("gateway", "error in a detail", 400, {"detail": {"error": "no deployment of this model"}}, "row",
        "no deployment"),
    Row("gateway", "list of errors", 400, {"success": False, "errors": [{"code": 7003, "message": "No route"}]}, "row",
        "No route"),
    Row("DashScope", "wrong key", 401, {"code": "InvalidApiKey", "message": "Invalid API-key provided."}, "stop",
        "API-key"),
    Row("DashScope", "filter", 400, openai("Input data may contain inappropriate content.", "data_inspection_failed",
        "data_inspection_failed"), "refused", "inappropriate"),
    Row("xAI", "wrong key", 400, {"code": "invalid-argument", "error": "Incorrect API key provided: xa***"}, "stop",
        "Incorrect"),
    Row("DeepSeek", "no money", 402, openai("Insufficient Balance", "unknown_error", "invalid_request_error"), "stop",
        "Balance"),
    Row("Qianfan", "error inside 200", 200, {"error_code": 18, "error_msg": "Open api qps request limit reached"},
        "again",
        "limit reached"),
    Row("gateway", "page", 502, "<html><h1>502 Bad Gateway</h1></html>", "again", "HTTP 502"),
    Row("gateway", "timeout page", 524, "<html>", "again", "HTTP 524"),
    Row("gateway", "sign-in page", 200, "<html>Sign in</html>", "again", "not JSON"),
    Row("gateway", "moved", 308, "", "row", "give the final address"),
]  # fmt: skip
