// Reads streamed answers of each endpoint. All yield parts in one form:
//
//   text, thought   next part of the answer or its reasoning
//   usage           tokens that the model has read and written
//   response        the id of the response, if the service has stored it, otherwise null

import { stream, streamEvents } from "./api.js";

/** Chat completions. */
export async function* chat(body, signal, onHead) {
  for await (const { choices, usage } of withUsage("v1/chat/completions", body, signal, onHead)) {
    const delta = choices[0]?.delta;
    yield { text: delta?.content, thought: delta?.reasoning_content, usage: tokens(usage) };
  }
}

/** Completions. */
export async function* completion(body, signal, onHead) {
  for await (const { choices, usage } of withUsage("v1/completions", body, signal, onHead)) {
    yield { text: choices[0]?.text, usage: tokens(usage) };
  }
}

/**
 * Responses. If the service no longer has the one to continue, the request is repeated with the whole conversation.
 *
 * @param whole the request without `previous_response_id`
 */
export const responses = (whole) =>
  async function* (body, signal, onHead) {
    try {
      yield* parts(body, signal, onHead);
    } catch (error) {
      if (!body.previous_response_id || error.code !== "previous_response_not_found") throw error;
      yield* parts(whole, signal, onHead);
    }
  };

async function* parts(body, signal, onHead) {
  for await (const event of streamEvents("v1/responses", body, signal, onHead)) {
    if (event.type === "response.output_text.delta") yield { text: event.delta };
    else if (event.type === "response.reasoning_text.delta") yield { thought: event.delta };
    else if (event.type === "response.completed" || event.type === "response.incomplete") {
      const { id, store, usage } = event.response;
      yield { usage: usage && { read: usage.input_tokens, written: usage.output_tokens }, response: store ? id : null };
    }
  }
}

const withUsage = (path, body, signal, onHead) => stream(path, { ...body, stream_options: { include_usage: true } }, signal, onHead);
const tokens = (usage) => usage && { read: usage.prompt_tokens, written: usage.completion_tokens };
