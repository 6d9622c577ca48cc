"""Valid requests to corrupt, and strategies for unusual values in requests."""

import json
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# The same cases on every run and every machine.
repeatable = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

ASKED = {"model": "tiny-gen", "max_tokens": 4}
HELLO = [{"role": "user", "content": "x"}]
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
    },
}
QUIET = {"chat_template_kwargs": {"enable_thinking": False}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Look."}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "a fox"},
]
CUSTOM_TOOL = {"name": "look", "description": "Looks.", "input_schema": TOOL["function"]["parameters"]}
BLOCKS = [
    {"role": "user", "content": [{"type": "text", "text": "Look."}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "x"}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "a fox"}]},
]
ITEMS = [
    {"role": "user", "content": [{"type": "input_text", "text": "Look."}]},
    {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at": "x"}'},
    {"type": "function_call_output", "call_id": "call_1", "output": "a fox"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
]
VALID: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            "model": "tiny-gen", "messages": HISTORY, "max_tokens": 4, "temperature": 0.5, "n": 2, "stop": ["z"],
            "tools": [TOOL], "tool_choice": "auto", "logprobs": True, "top_logprobs": 2, "seed": 1, **QUIET,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "model": "tiny-gen", "messages": HISTORY[:2], "max_completion_tokens": 4, "stream": True,
            "stream_options": {"include_usage": True}, "metadata": {"a": "b"}, "reasoning_effort": "low",
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        },
    ),
    (
        "/v1/completions",
        {
            "model": "tiny-gen", "prompt": ["The quick", "Paris"], "max_tokens": 4, "n": 2, "logprobs": 2,
            "echo": True, "stop": ["z"], "logit_bias": {"5": 1.5}, "top_k": 5, "min_p": 0.1, "min_tokens": 1,
            "bad_words": ["fox"], "stop_token_ids": [7], "allowed_token_ids": [5, 6, 7], "best_of": 3,
        },
    ),
    (
        "/v1/completions",
        {
            "model": "tiny-gen", "prompt": [5, 6, 7], "max_tokens": 4, "stream": True, "top_p": 0.5,
            "presence_penalty": 1, "frequency_penalty": -1, "structured_outputs": {"choice": ["a", "b"]},
        },
    ),
    (
        "/v1/embeddings",
        {"model": "tiny-embed", "input": ["a", "b"], "dimensions": 16, "encoding_format": "float"},
    ),
    ("/v1/embeddings", {"model": "tiny-embed", "input": [[5, 6], [7]], "truncate_prompt_tokens": 4}),
    ("/tokenize", {"model": "tiny-gen", "prompt": "The quick", "return_token_strs": True}),
    ("/tokenize", {"messages": HISTORY, "tools": [TOOL], "add_generation_prompt": True}),
    ("/detokenize", {"model": "tiny-gen", "tokens": [5, 6, 7]}),
    (
        "/v1/messages",
        {
            "model": "tiny-gen", "max_tokens": 4, "messages": BLOCKS, "tools": [CUSTOM_TOOL],
            "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, "stop_sequences": ["z"],
            "temperature": 0.5, "top_k": 5, "top_p": 0.9, "thinking": {"type": "disabled"},
        },
    ),
    (
        "/v1/messages",
        {
            "model": "tiny-gen", "max_tokens": 4, "messages": HELLO, "system": "Be brief.", "stream": True,
            "thinking": {"type": "enabled", "budget_tokens": 1024, "display": "summarized"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            "metadata": {"user_id": "u"}, "service_tier": "auto",
        },
    ),
    ("/v1/messages/count_tokens", {"model": "tiny-gen", "messages": BLOCKS, "tools": [CUSTOM_TOOL]}),
    (
        "/v1/responses/input_tokens",
        {
            "model": "tiny-gen", "input": ITEMS, "instructions": "Be brief.", "tool_choice": "auto",
            "tools": [{"type": "function", **TOOL["function"]}, {"type": "web_search", "size": "low"}],
        },
    ),
]  # fmt: skip
POSTS = sorted({path for path, _ in VALID})

# Text that often breaks programs: surrogates, control characters, marks, joiners, right-to-left, special tokens.
odd_texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Co", "Cn", "Mn", "Zl", "Zp", "Lo"]), max_size=12),
    st.sampled_from(
        [
            "", " ", "\x00", "\ud800", "\udc00\ud800", "\ufeff", "\ufffd", "\u2028", "\u202e", "\u200d" * 9,
            "e" + "\u0301" * 50, "👩‍👩‍👧‍👦", "﷽", "𝕏", "<|endoftext|>", "<think>", "</tool_call>", "<tool_call>{",
            "{{ 7 * 7 }}", "{% for x in y %}", "%s%n", "../../etc/passwd", "a" * 5000, "\\", '"',
            "\r\n\r\ndata: x",
        ]
    ),
)  # fmt: skip
odd_numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400]),
    st.floats(),
)
odd_values = st.recursive(
    st.none() | st.booleans() | odd_numbers | odd_texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(odd_texts, inner, max_size=4),
    max_leaves=6,
)

_SUBSCHEMAS = ["items", "not", "additionalProperties", "propertyNames", "contains", "if", "then", "else"]
_LISTS = ["anyOf", "oneOf", "allOf", "prefixItems"]
_MAPS = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"]
_NUMBERS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"]
_COUNTS = ["minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"]
_types = st.sampled_from(["string", "integer", "number", "object", "array", "boolean", "null", "bogus", "", 5, []])
_patterns = st.text("ab(|)*+?[]{},0123456789^$.\\dwspL-", max_size=12)
_refs = st.sampled_from(["#", "#/$defs/a", "#/properties/a", "http://127.0.0.1:9/x.json", "", "#/no/where", 5])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": _types | st.lists(_types, max_size=3),
            "pattern": _patterns,
            "format": st.sampled_from(["date", "email", "uuid", "regex", "bogus", "", 5]),
            "$ref": _refs,
            "enum": st.lists(odd_values, max_size=3),
            "const": odd_values,
            "required": st.lists(st.sampled_from(["a", "b", ""]), max_size=3) | odd_values,
            "uniqueItems": st.booleans(),
            **dict.fromkeys(_SUBSCHEMAS, inner),
            **dict.fromkeys(_LISTS, st.lists(inner, max_size=3)),
            **dict.fromkeys(_MAPS, st.dictionaries(st.sampled_from(["a", "b", "^a", "(", ""]), inner, max_size=3)),
            **dict.fromkeys(_NUMBERS + _COUNTS, odd_numbers),
        },
    )


odd_schemas = st.recursive(st.booleans() | st.just({}) | odd_values, _schemas, max_leaves=5).filter(
    lambda schema: isinstance(schema, dict)
)
odd_regexes = _patterns | st.text("ab(|)*+?[]{},019^$.\\dwspL-:=!<>P\u00e9\U0001f600", max_size=30)
odd_grammars = st.text("root:=|()[]*+?\"'ab \n\\{}0,9/~start%", max_size=40) | st.text(
    '|()[]*+?"ab r\n{}0,9', max_size=20
).map(lambda text: f"root ::= {text}")
odd_tags = odd_values.map(json.dumps) | st.builds(
    lambda begin, schema, end, triggers: json.dumps(
        {"structures": [{"begin": begin, "schema": schema, "end": end}], "triggers": triggers}
    ),
    odd_texts,
    odd_schemas,
    odd_texts,
    st.lists(odd_texts, max_size=2),
)
odd_forms = st.one_of(
    st.fixed_dictionaries({"json": odd_schemas | odd_texts}),
    st.fixed_dictionaries({"regex": odd_regexes}),
    st.fixed_dictionaries({"grammar": odd_grammars}),
    st.fixed_dictionaries({"choice": st.lists(odd_texts, max_size=4)}),
    st.fixed_dictionaries({"structural_tag": odd_tags}),
    st.fixed_dictionaries({"json": odd_schemas, "whitespace_pattern": odd_regexes}),
)
odd_tools = st.lists(
    st.builds(
        lambda name, parameters, strict, description: {
            "type": "function",
            "function": {"name": name, "parameters": parameters, "strict": strict, "description": description},
        },
        st.sampled_from(["look", "a-b_C9", "x" * 64, "x" * 65, "", "a b", "a.b", "é"]),
        odd_schemas,
        st.sampled_from([True, False, None]),
        odd_texts,
    ),
    min_size=1,
    max_size=3,
)
odd_template_arguments = st.dictionaries(
    st.sampled_from(
        [
            "enable_thinking", "add_generation_prompt", "continue_final_message", "documents", "bos_token",
            "padding", "max_length", "truncation", "return_tensors", "tokenizer_kwargs", "raise_exception",
            "strftime_now", "namespace", "range", "self", "message", "tojson", "chat_template", "messages",
            "tools", "reasoning_effort", "return_assistant_tokens_mask", "return_dict", "", "a b", "__class__",
        ]
    ),
    odd_values,
    min_size=1,
    max_size=3,
)  # fmt: skip
_calls = st.builds(
    lambda call_id, name, arguments: {
        "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments},
    },
    odd_texts,
    odd_texts,
    odd_texts | st.sampled_from(["{", "[]", "null", '"x"', "1e999", "{'a': 1}", '{"a": NaN}', '{"at": "x"}']),
)  # fmt: skip
odd_histories = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "developer"]), "content": odd_texts}),
        st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": odd_texts, "content": odd_texts}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": odd_texts | st.none()},
            optional={
                "tool_calls": st.lists(_calls, max_size=3),
                "refusal": odd_texts,
                "reasoning": odd_texts,
                "reasoning_content": odd_texts,
            },
        ),
    ),
    min_size=1,
    max_size=5,
)


@st.composite
def corrupted(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A valid request with one corrupted value at any depth."""
    path, valid = draw(st.sampled_from(VALID))
    body = json.loads(json.dumps(valid))
    places = list(_places(body))
    holder, key = draw(st.sampled_from(places))
    change = draw(st.sampled_from(["replace", "replace", "remove", "add", "wrap"]))
    if change == "remove":
        del holder[key]
    elif change == "wrap":
        holder[key] = [holder[key]]
    elif change == "add" and isinstance(holder, dict):
        holder[draw(odd_texts)] = draw(odd_values)
    else:
        holder[key] = draw(odd_values)
    return path, body


def _places(value: Any) -> Any:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
