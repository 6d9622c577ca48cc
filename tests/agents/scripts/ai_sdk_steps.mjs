// The AI SDK over the service, with its default for OpenAI: turns whose earlier items the service has stored.
//
// npm install ai @ai-sdk/openai zod
import { createOpenAI } from '@ai-sdk/openai'
import { generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const MODEL = 'SmolLM2-135M-Instruct'
let sent = []

const openai = createOpenAI({
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: 'unused',
  fetch: (url, options) => {
    sent.push({ path: new URL(url).pathname, body: JSON.parse(options.body) })
    return fetch(url, options)
  },
})
const weather = tool({
  description: 'Weather of a city.',
  inputSchema: z.object({ city: z.enum(['Paris', 'Rome']) }),
  // Otherwise the SDK sends `strict: false`, and a small model writes what it likes.
  strict: true,
  execute: async ({ city }) => `It is sunny in ${city}.`,
})
const settings = {
  model: openai(MODEL),
  temperature: 0,
  maxOutputTokens: 60,
  maxRetries: 0,
  tools: { weather },
  stopWhen: stepCountIs(3),
  // A call in the first step, then an answer.
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'auto' }),
}

function report(step, facts) {
  console.log(JSON.stringify({ step, sent, ...facts }))
  sent = []
}

const questions = ['What is the weather in Paris?', 'And in Rome?', 'And tomorrow?']
let messages = []
for (const [turn, content] of questions.entries()) {
  messages.push({ role: 'user', content })
  const result = await generateText({ ...settings, messages })
  report(`turn ${turn + 1}`, {
    answer: result.text,
    returned: result.steps.flatMap(step => step.toolResults.map(each => each.output)),
    responses: result.steps.map(step => step.response.id),
    tokens: result.usage.totalTokens,
  })
  messages.push(...result.responseMessages)
}

messages = []
for (const [turn, content] of questions.slice(0, 2).entries()) {
  messages.push({ role: 'user', content })
  const failures = []
  const result = streamText({ ...settings, messages, onError: ({ error }) => failures.push(String(error)) })
  const pieces = []
  for await (const piece of result.textStream) pieces.push(piece)
  report(`streamed turn ${turn + 1}`, { pieces, failures, answer: await result.text })
  messages.push(...(await result.responseMessages))
}

const { output } = await generateText({
  ...settings,
  tools: undefined,
  prepareStep: undefined,
  output: Output.object({ schema: z.object({ sky: z.enum(['clear', 'cloudy']), windy: z.boolean() }) }),
  prompt: 'Invent the weather of tomorrow.',
})
report('form', { answer: output })
