// The OpenAI SDK for Node, unmodified, against a running service: node suite.mjs http://localhost:8200/v1
// Prints one line per check; the exit status is 0 if all passed.

import assert from 'node:assert/strict';
import test from 'node:test';

import OpenAI, { toFile } from 'openai';

const EMBED = 'all-MiniLM-L6-v2';
const GENERATE = 'SmolLM2-135M-Instruct';

const client = new OpenAI({ baseURL: process.argv[2], apiKey: 'unused', maxRetries: 0, timeout: 60_000 });
const check = (name, body) => test(name, { timeout: 120_000 }, body);

const completion = { model: GENERATE, prompt: 'The capital of France is', max_tokens: 4, temperature: 0 };
const chat = {
  model: GENERATE,
  messages: [
    { role: 'system', content: 'You answer in one sentence.' },
    { role: 'user', content: 'What is the capital of France?' },
  ],
  max_tokens: 12,
  temperature: 0,
};

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, index) => sum + value * y[index], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function assertUsage(usage) {
  assert.ok(usage.prompt_tokens > 0, 'the prompt has tokens');
  assert.ok(usage.completion_tokens > 0, 'the answer has tokens');
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
}

// Models

check('models.list names both models', async () => {
  const models = await collect(client.models.list());
  assert.deepEqual(models.map((model) => model.id).sort(), [GENERATE, EMBED].sort());
  for (const model of models) {
    assert.equal(model.object, 'model');
    assert.ok(Number.isInteger(model.created), 'created is a whole number of seconds');
  }
});

check('models.retrieve finds one', async () => {
  const model = await client.models.retrieve(EMBED);
  assert.equal(model.id, EMBED);
  assert.equal(model.object, 'model');
});

// Embeddings

check('embeddings decodes the base64 that it asks for by itself', async () => {
  const answer = await client.embeddings.create({ model: EMBED, input: 'kitten' });
  assert.equal(answer.object, 'list');
  assert.equal(answer.model, EMBED);
  assert.equal(answer.data[0].embedding.length, 384);
  assert.ok(answer.data[0].embedding.every(Number.isFinite), 'every value is a number');
  assert.ok(answer.usage.prompt_tokens > 0);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens);
});

check('embeddings are the same numbers in every format', async () => {
  const ask = async (format) =>
    (await client.embeddings.create({ model: EMBED, input: 'kitten', encoding_format: format })).data[0].embedding;
  const byDefault = await ask(undefined);
  const floats = await ask('float');
  const base64 = await ask('base64');
  assert.ok(Array.isArray(floats), 'float is a list of numbers');
  assert.equal(typeof base64, 'string');
  const bytes = Buffer.from(base64, 'base64');
  assert.equal(bytes.length, 384 * 4);
  floats.forEach((value, index) => {
    assert.ok(Math.abs(value - byDefault[index]) < 1e-5, `value ${index} of the default format`);
    assert.ok(Math.abs(value - bytes.readFloatLE(index * 4)) < 1e-5, `value ${index} of base64`);
  });
});

check('embeddings of several inputs keep their order and their meaning', async () => {
  const answer = await client.embeddings.create({ model: EMBED, input: ['kitten', 'cat', 'revenue'] });
  assert.deepEqual(answer.data.map((item) => item.index), [0, 1, 2]);
  const [kitten, cat, revenue] = answer.data.map((item) => item.embedding);
  assert.ok(cosine(kitten, cat) > cosine(kitten, revenue) + 0.2, 'a kitten is nearer to a cat than to revenue');
});

// Completions

check('completions.create answers whole', async () => {
  const answer = await client.completions.create(completion);
  assert.equal(answer.object, 'text_completion');
  assert.match(answer.choices[0].text, /Paris/);
  assert.match(answer.choices[0].finish_reason, /^(stop|length)$/);
  assertUsage(answer.usage);
});

check('completions.create streams the same text, then the usage', async () => {
  const whole = await client.completions.create(completion);
  const chunks = await collect(
    await client.completions.create({ ...completion, stream: true, stream_options: { include_usage: true } }),
  );
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, whole.usage.total_tokens);
  assert.ok(chunks.length > 1, 'the text comes in pieces');
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), whole.choices[0].text);
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
});

// Chat

check('chat.completions.create answers whole', async () => {
  const answer = await client.chat.completions.create(chat);
  assert.equal(answer.object, 'chat.completion');
  assert.equal(answer.model, GENERATE);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].message.role, 'assistant');
  assert.match(answer.choices[0].message.content, /Paris/);
  assert.match(answer.choices[0].finish_reason, /^(stop|length)$/);
  assertUsage(answer.usage);
});

check('chat.completions.create streams the same text, then the usage', async () => {
  const whole = await client.chat.completions.create(chat);
  const chunks = await collect(
    await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } }),
  );
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, whole.usage.total_tokens);
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1, 'all chunks have one id');
  assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk'));
  assert.equal(chunks[0].choices[0].delta.role, 'assistant');
  const text = chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join('');
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
});

check('chat.completions.stream puts the answer together', async () => {
  const whole = await client.chat.completions.create(chat);
  const stream = client.chat.completions.stream({ ...chat, stream_options: { include_usage: true } });
  const pieces = [];
  stream.on('content', (delta) => pieces.push(delta));
  assert.equal(await stream.finalContent(), whole.choices[0].message.content);
  assert.ok(pieces.length > 1, 'the text comes in pieces');
  assert.equal(pieces.join(''), whole.choices[0].message.content);
  const final = await stream.finalChatCompletion();
  assert.equal(final.choices[0].finish_reason, whole.choices[0].finish_reason);
  assert.equal(final.choices[0].message.role, 'assistant');
  const usage = await stream.totalUsage();
  assertUsage(usage);
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
});

check('several choices stream side by side', async () => {
  const stream = client.chat.completions.stream({ ...chat, n: 2, temperature: 1, seed: 7 });
  const { choices } = await stream.finalChatCompletion();
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1]);
  for (const choice of choices) assert.ok(choice.message.content.length > 0, 'no choice is empty');
});

// Structured output

const weather = {
  type: 'object',
  properties: { sky: { enum: ['clear', 'cloudy'] }, windy: { type: 'boolean' } },
  required: ['sky', 'windy'],
  additionalProperties: false,
};
const structured = {
  model: GENERATE,
  messages: [{ role: 'user', content: 'Invent the weather of tomorrow. Answer in JSON.' }],
  response_format: { type: 'json_schema', json_schema: { name: 'weather', strict: true, schema: weather } },
  max_tokens: 60,
  temperature: 0,
};

function assertWeather(parsed) {
  assert.deepEqual(Object.keys(parsed).sort(), ['sky', 'windy']);
  assert.ok(['clear', 'cloudy'].includes(parsed.sky), `${parsed.sky} is one of the two`);
  assert.equal(typeof parsed.windy, 'boolean');
}

check('chat.completions.parse gives an object of the schema', async () => {
  const answer = await client.chat.completions.parse(structured);
  assertWeather(answer.choices[0].message.parsed);
  assert.equal(answer.choices[0].message.refusal ?? null, null);
});

check('chat.completions.stream parses an object of the schema', async () => {
  const stream = client.chat.completions.stream(structured);
  const final = await stream.finalChatCompletion();
  assertWeather(final.choices[0].message.parsed);
});

check('response_format json_object gives an object', async () => {
  const answer = await client.chat.completions.create({ ...structured, response_format: { type: 'json_object' } });
  // The small model may run out of tokens before the object ends, but it can't begin anything else.
  assert.match(answer.choices[0].message.content, /^\s*\{/);
  if (answer.choices[0].finish_reason === 'stop') {
    assert.equal(typeof JSON.parse(answer.choices[0].message.content), 'object');
  }
});

// Tools

const functionTool = (name, property, values) => ({
  type: 'function',
  function: {
    name,
    description: `Looks up the ${name.split('_')[1]} of a ${property}.`,
    parameters: {
      type: 'object',
      properties: { [property]: { type: 'string', enum: values } },
      required: [property],
      additionalProperties: false,
    },
  },
});
const asking = {
  model: GENERATE,
  messages: [{ role: 'user', content: 'What is the weather in Paris?' }],
  tools: [
    functionTool('get_weather', 'city', ['Paris', 'Rome']),
    functionTool('get_price', 'fruit', ['apple', 'pear']),
  ],
  max_tokens: 160,
  temperature: 0,
};
// The SDK parses the arguments of strict tools only; most programs leave `strict` open.
const strictTools = asking.tools.map((tool) => ({ ...tool, function: { ...tool.function, strict: true } }));
const values = { get_weather: ['city', ['Paris', 'Rome']], get_price: ['fruit', ['apple', 'pear']] };

function assertCall(call, name) {
  assert.equal(call.type, 'function');
  assert.ok(call.id.length > 0, 'the call has an id');
  assert.ok(Object.hasOwn(values, call.function.name), `${call.function.name} is one of the tools`);
  if (name) assert.equal(call.function.name, name);
  const [property, allowed] = values[call.function.name];
  const given = JSON.parse(call.function.arguments);
  assert.deepEqual(Object.keys(given), [property]);
  assert.ok(allowed.includes(given[property]), `${given[property]} is one that the schema allows`);
}

// OpenAI ends a required call with "tool_calls", and the call of a named tool with "stop".
for (const [title, tool_choice, name, reason] of [
  ['required', 'required', undefined, 'tool_calls'],
  ['the name of a tool', { type: 'function', function: { name: 'get_price' } }, 'get_price', 'stop'],
]) {
  check(`tool_choice ${title}: a call, whole`, async () => {
    const answer = await client.chat.completions.create({ ...asking, tool_choice });
    const [choice] = answer.choices;
    assert.ok(choice.message.tool_calls.length > 0, 'there is a call');
    for (const call of choice.message.tool_calls) assertCall(call, name);
    assert.equal(choice.finish_reason, reason);
  });

  check(`tool_choice ${title}: a call, streamed raw`, async () => {
    const stream = await client.chat.completions.create({ ...asking, tool_choice, stream: true });
    const calls = [];
    let finish;
    for await (const chunk of stream) {
      for (const delta of chunk.choices[0].delta.tool_calls ?? []) {
        // The first chunk of a call has its id, type and name; later ones only extend the arguments.
        const { id, type, function: { name: called, arguments: piece } } = delta;
        calls[delta.index] ??= { id, type, function: { name: called, arguments: '' } };
        calls[delta.index].function.arguments += piece ?? '';
      }
      finish = chunk.choices[0].finish_reason ?? finish;
    }
    assert.ok(calls.length > 0, 'there is a call');
    for (const call of calls) assertCall(call, name);
    assert.equal(finish, reason);
  });

  check(`tool_choice ${title}: a call, put together and parsed by the SDK`, async () => {
    const stream = client.chat.completions.stream({ ...asking, tools: strictTools, tool_choice });
    const [choice] = (await stream.finalChatCompletion()).choices;
    assert.ok(choice.message.tool_calls.length > 0, 'there is a call');
    for (const call of choice.message.tool_calls) {
      assertCall(call, name);
      assert.deepEqual(call.function.parsed_arguments, JSON.parse(call.function.arguments));
    }
    assert.equal(choice.finish_reason, reason);
  });
}

check('chat.completions.runTools calls the function', async () => {
  const fruits = [];
  const price = {
    ...functionTool('get_price', 'fruit', ['apple', 'pear']).function,
    parse: JSON.parse,
    function: ({ fruit }) => {
      fruits.push(fruit);
      return '2 euros';
    },
  };
  const runner = client.chat.completions.runTools({
    ...asking,
    tools: [{ type: 'function', function: price }],
    tool_choice: { type: 'function', function: { name: 'get_price' } },
  });
  assert.equal(await runner.finalFunctionToolCallResult(), '2 euros');
  assert.equal(fruits.length, 1);
  assert.ok(['apple', 'pear'].includes(fruits[0]), `${fruits[0]} is one that the schema allows`);
});

check("a tool's result goes back and is answered in words", async () => {
  const called = { name: 'get_weather', arguments: '{"city":"Paris"}' };
  const answer = await client.chat.completions.create({
    ...asking,
    messages: [
      ...asking.messages,
      { role: 'assistant', content: null, tool_calls: [{ id: 'call_1', type: 'function', function: called }] },
      { role: 'tool', tool_call_id: 'call_1', content: 'It is sunny in Paris, with 25 degrees.' },
    ],
    tool_choice: 'none',
    max_tokens: 12,
  });
  assert.ok(answer.choices[0].message.content.length > 0, 'there are words');
  assert.equal(answer.choices[0].message.tool_calls?.length ?? 0, 0);
});

// Responses

const asked = {
  model: GENERATE,
  instructions: 'You answer in one sentence.',
  input: 'What is the capital of France?',
  max_output_tokens: 16,
  temperature: 0,
};

check('responses.create answers whole', async () => {
  const answer = await client.responses.create({ ...asked, store: false });
  assert.equal(answer.object, 'response');
  assert.equal(answer.model, GENERATE);
  assert.equal(answer.store, false);
  assert.match(answer.output_text, /Paris/);
  assert.equal(answer.output_text, answer.output[0].content[0].text);
  assert.ok(answer.usage.input_tokens > 0, 'the input has tokens');
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
});

check('responses.create streams the same text, in numbered events', async () => {
  const whole = await client.responses.create({ ...asked, store: false });
  const events = await collect(await client.responses.create({ ...asked, store: false, stream: true }));
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  assert.equal(events[0].type, 'response.created');
  assert.match(events.at(-1).type, /^response\.(completed|incomplete)$/);
  const deltas = events.filter((event) => event.type === 'response.output_text.delta');
  assert.equal(deltas.map((event) => event.delta).join(''), whole.output_text);
  assert.equal(events.at(-1).response.usage.total_tokens, whole.usage.total_tokens);
});

check('responses.stream puts the answer together', async () => {
  const whole = await client.responses.create({ ...asked, store: false });
  const stream = client.responses.stream({ ...asked, store: false });
  const pieces = [];
  stream.on('response.output_text.delta', (event) => pieces.push(event.delta));
  const final = await stream.finalResponse();
  assert.equal(final.output_text, whole.output_text);
  assert.equal(pieces.join(''), whole.output_text);
});

check('responses.parse gives an object of the schema', async () => {
  const answer = await client.responses.parse({
    model: GENERATE,
    input: 'Invent the weather of tomorrow. Answer in JSON.',
    text: { format: { type: 'json_schema', name: 'weather', strict: true, schema: weather } },
    max_output_tokens: 60,
    temperature: 0,
    store: false,
  });
  assertWeather(answer.output_parsed);
});

check('responses.create calls a function, and is answered', async () => {
  const tools = asking.tools.map((tool) => ({ type: 'function', strict: false, ...tool.function }));
  const tool_choice = { type: 'function', name: 'get_weather' };
  const input = [{ role: 'user', content: 'What is the weather in Paris?' }];
  const limits = { model: GENERATE, max_output_tokens: 160, temperature: 0 };
  const first = await client.responses.create({ ...limits, input, tools, tool_choice });
  const call = first.output.find((item) => item.type === 'function_call');
  assertCall({ type: 'function', id: call.call_id, function: call }, 'get_weather');
  const result = { type: 'function_call_output', call_id: call.call_id, output: '{"sky": "clear"}' };
  const last = await client.responses.create({
    ...limits,
    previous_response_id: first.id,
    input: [result],
    tools,
    tool_choice: 'none',
  });
  assert.ok(last.output_text.length > 0, 'there are words');
  const listed = await collect(client.responses.inputItems.list(last.id, { order: 'asc' }));
  const kinds = listed.map((item) => item.type);
  assert.deepEqual(kinds, ['message', 'function_call', 'function_call_output']);
});

check('a stored response is retrieved and deleted', async () => {
  const stored = await client.responses.create(asked);
  const again = await client.responses.retrieve(stored.id);
  assert.equal(again.output_text, stored.output_text);
  await client.responses.delete(stored.id);
  await assert.rejects(client.responses.retrieve(stored.id), OpenAI.NotFoundError);
  await assert.rejects(
    client.responses.create({ ...asked, previous_response_id: stored.id }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === 'previous_response_not_found',
  );
});

check('a response runs on in the background', async () => {
  let response = await client.responses.create({ ...asked, background: true });
  assert.match(response.status, /^(queued|in_progress)$/);
  while (/^(queued|in_progress)$/.test(response.status)) response = await client.responses.retrieve(response.id);
  assert.match(response.output_text, /Paris/);
  const events = await collect(await client.responses.retrieve(response.id, { stream: true, starting_after: 1 }));
  assert.equal(events[0].sequence_number, 2);
  assert.equal(events.at(-1).response.output[0].content[0].text, response.output_text);
});

check('a conversation keeps its items', async () => {
  const conversation = await client.conversations.create({ metadata: { topic: 'capitals' } });
  await client.responses.create({ ...asked, conversation: conversation.id });
  const items = await collect(client.conversations.items.list(conversation.id, { order: 'asc' }));
  assert.deepEqual(items.map((item) => item.role), ['user', 'assistant']);
  assert.equal((await client.conversations.retrieve(conversation.id)).metadata.topic, 'capitals');
  assert.equal((await client.conversations.delete(conversation.id)).deleted, true);
});

// Errors, request ids, aborted streams

for (const [title, ask] of [
  ['chat.completions', () => client.chat.completions.create({ ...chat, model: 'nobody' })],
  ['chat.completions, streamed', () => client.chat.completions.create({ ...chat, model: 'nobody', stream: true })],
  ['completions', () => client.completions.create({ ...completion, model: 'nobody' })],
  ['embeddings', () => client.embeddings.create({ model: 'nobody', input: 'kitten' })],
  ['models.retrieve', () => client.models.retrieve('nobody')],
]) {
  check(`${title}: an unknown model is a NotFoundError`, async () => {
    await assert.rejects(ask, (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError, `${error}`);
      assert.equal(error.status, 404);
      assert.equal(error.code, 'model_not_found');
      assert.match(error.message, /nobody/);
      assert.ok(error.requestID, 'the error has a request id');
      return true;
    });
  });
}

check('a wrong setting is a BadRequestError that names it', async () => {
  await assert.rejects(client.chat.completions.create({ ...chat, temperature: 3 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError, `${error}`);
    assert.equal(error.status, 400);
    assert.equal(error.param, 'temperature');
    assert.equal(error.type, 'invalid_request_error');
    return true;
  });
});

check('every answer has a request id of its own', async () => {
  const answers = [
    await client.models.retrieve(EMBED),
    await client.embeddings.create({ model: EMBED, input: 'kitten', encoding_format: 'float' }),
    await client.completions.create(completion),
    await client.chat.completions.create(chat),
    await client.chat.completions.create(chat),
  ];
  const ids = answers.map((answer) => answer._request_id);
  assert.ok(ids.every((id) => typeof id === 'string' && id.length > 0), `request ids: ${ids}`);
  assert.equal(new Set(ids).size, ids.length, 'no two are the same');
});

check('a stream has a request id too', async () => {
  const { data, request_id } = await client.chat.completions.create({ ...chat, stream: true }).withResponse();
  assert.ok(request_id, 'it comes with the headers');
  assert.ok((await collect(data)).length > 1, 'and the stream follows');
});

const long = { ...chat, messages: [{ role: 'user', content: 'Tell a long story.' }], max_tokens: 4000 };

check('a stream ends when its controller aborts', async () => {
  const stream = await client.chat.completions.create({ ...long, stream: true });
  let chunks = 0;
  for await (const _ of stream) {
    chunks += 1;
    if (chunks === 3) stream.controller.abort();
  }
  assert.equal(chunks, 3);
});

check('a stream of the helper ends with an APIUserAbortError', async () => {
  const stream = client.chat.completions.stream(long);
  stream.on('content', () => stream.abort());
  await assert.rejects(stream.finalContent(), OpenAI.APIUserAbortError);
});

// Files and batches

const asLines = (url, ...bodies) =>
  bodies.map((body, n) => JSON.stringify({ custom_id: `line-${n}`, method: 'POST', url, body })).join('\n');

const upload = async (content) =>
  client.files.create({ file: await toFile(Buffer.from(content), 'in.jsonl'), purpose: 'batch' });

check('a batch answers the lines of a file', async () => {
  const url = '/v1/embeddings';
  const content = asLines(url, { model: EMBED, input: 'kitten' }, { model: EMBED, input: 'word '.repeat(3000) });
  const file = await upload(content);
  assert.equal(file.bytes, content.length);
  assert.equal((await client.files.waitForProcessing(file.id, { pollInterval: 10 })).status, 'processed');
  assert.equal(await (await client.files.content(file.id)).text(), content);

  let batch = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: '24h' });
  while (!['completed', 'failed'].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  assert.deepEqual([batch.status, batch.request_counts], ['completed', { total: 2, completed: 1, failed: 1 }]);
  const text = async (id) => (await client.files.content(id)).text();
  const records = async (id) => (await text(id)).trim().split('\n').map((line) => JSON.parse(line));
  const [answer] = await records(batch.output_file_id);
  assert.equal(answer.custom_id, 'line-0');
  const direct = await client.embeddings.create({ model: EMBED, input: 'kitten', encoding_format: 'float' });
  assert.ok(cosine(answer.response.body.data[0].embedding, direct.data[0].embedding) > 0.999);
  const [failure] = await records(batch.error_file_id);
  assert.deepEqual([failure.custom_id, failure.response.status_code], ['line-1', 400]);
  assert.equal((await client.files.delete(file.id)).deleted, true);
});

check('lists of files and batches go on over their pages', async () => {
  const ids = [(await upload('{}')).id, (await upload('{}')).id, (await upload('{}')).id];
  const listed = (await collect(client.files.list({ limit: 2, order: 'asc' }))).map((each) => each.id);
  assert.deepEqual(listed.filter((id) => ids.includes(id)), ids);
  const batches = [];
  for (const input_file_id of ids) {
    const batch = await client.batches.create({ input_file_id, endpoint: '/v1/embeddings', completion_window: '24h' });
    batches.unshift(batch.id);
  }
  const found = (await collect(client.batches.list({ limit: 2 }))).map((each) => each.id);
  assert.deepEqual(found.filter((id) => batches.includes(id)), batches);
});

check('a batch is cancelled', async () => {
  const url = '/v1/chat/completions';
  const content = asLines(url, ...Array(3).fill({ ...long, ignore_eos: true, max_tokens: 2000 }));
  const file = await upload(content);
  const batch = await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: '24h' });
  assert.match((await client.batches.cancel(batch.id)).status, /^cancell(ing|ed)$/);
});

check('and the service goes on', async () => {
  const answer = await client.chat.completions.create({ ...chat, max_tokens: 2 });
  assert.ok(answer.choices[0].message.content.length > 0, 'it answers');
});
