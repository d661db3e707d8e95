// openai-js: what its users do with Responses and Conversations.
import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BASE_URL, equal, ok, run, version } from "./steps.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any" });
const create = (body, options) => client.responses.create({ model: "m", ...body }, options);
const all = async (stream) => {
  const found = [];
  for await (const one of stream) found.push(one);
  return found;
};
const tool = {
  type: "function",
  name: "get_weather",
  parameters: { type: "object", properties: { city: { type: "string" } } },
  strict: false,
};
const raises = async (kind, promise, code) => {
  try {
    await promise;
  } catch (error) {
    ok(error instanceof kind, `${error}`);
    if (code) equal(error.code, code);
    return;
  }
  throw new Error(`no ${kind.name}`);
};

await run(`openai-js ${version("openai")}`, {
  async models() {
    equal((await all(client.models.list())).map((model) => model.id), ["test-model"]);
  },
  async create() {
    const response = await create({ input: "hello" });
    equal(response.output_text, "You said: hello");
    equal((await client.responses.retrieve(response.id)).output_text, "You said: hello");
  },
  async stream() {
    const events = await all(await create({ input: "hello", stream: true }));
    equal(events[0].type, "response.created");
    equal(events.at(-1).response.output[0].content[0].text, "You said: hello");
  },
  async streamHelper() {
    for (const input of ["hello", "think", "refuse", "too long"]) {
      const stream = client.responses.stream({ model: "m", input });
      const final = await stream.finalResponse();
      ok(final.output.length > 0);
    }
  },
  async streamHelperOfTools() {
    const stream = client.responses.stream({ model: "m", input: "weather in two", tools: [tool] });
    const deltas = [];
    stream.on("response.function_call_arguments.delta", (event) => deltas.push(event.snapshot));
    const final = await stream.finalResponse();
    equal(final.output.map((item) => item.arguments), ['{"city":"Seoul"}', '{"city":"Busan"}']);
    equal(deltas.at(-1), '{"city":"Busan"}');
  },
  async parse() {
    const format = zodTextFormat(z.object({ name: z.string(), age: z.number() }), "person");
    const response = await client.responses.parse({ model: "m", input: "Who?", text: { format } });
    equal(response.output_parsed, { name: "Kim", age: 30 });
  },
  async tools() {
    const first = await create({ input: "weather?", tools: [tool] });
    const output = { type: "function_call_output", call_id: first.output[0].call_id, output: "21 °C" };
    const second = await create({ input: [output], previous_response_id: first.id, tools: [tool] });
    equal(second.output_text, "The tool says: 21 °C");
  },
  async conversation() {
    const conversation = await client.conversations.create();
    await create({ input: "one", conversation: conversation.id });
    const two = await create({ input: "two", conversation: { id: conversation.id } });
    equal(two.output_text, "You said: one / two");
    await client.conversations.items.create(conversation.id, { items: [{ role: "user", content: "three" }] });
    const items = await all(client.conversations.items.list(conversation.id, { order: "asc", limit: 2 }));
    equal(items.map((item) => item.role), ["user", "assistant", "user", "assistant", "user"]);
    await client.conversations.items.delete(items[4].id, { conversation_id: conversation.id });
    equal((await all(client.conversations.items.list(conversation.id))).length, 4);
    await client.conversations.update(conversation.id, { metadata: { a: "b" } });
    equal((await client.conversations.retrieve(conversation.id)).metadata, { a: "b" });
    ok((await client.conversations.delete(conversation.id)).deleted);
  },
  async cancelWhileStreamed() {
    const stream = client.responses.stream({ model: "m", input: "for ever" });
    let id;
    stream.on("response.created", (event) => (id = event.response.id));
    stream.on("response.output_text.delta", (event) => event.delta === "on" && client.responses.cancel(id));
    equal((await stream.finalResponse()).status, "cancelled");
  },
  async resume() {
    const events = await all(await create({ input: "think", stream: true }));
    for (const [place, { sequence_number }] of events.entries()) {
      const asked = { stream: true, starting_after: sequence_number };
      const rest = await all(await client.responses.retrieve(events[0].response.id, asked));
      equal(rest, events.slice(place + 1));
    }
  },
  async resumeHelper() {
    const events = await all(await create({ input: "hello", stream: true }));
    const stream = client.responses.stream({ response_id: events[0].response.id, starting_after: 5 });
    const rest = await all(stream);
    equal(rest.map((event) => event.sequence_number), events.map((e) => e.sequence_number).filter((n) => n > 5));
  },
  async errors() {
    const once = { maxRetries: 0 };
    await raises(OpenAI.BadRequestError, create({ input: "reject" }), "llm_rejected");
    await raises(OpenAI.RateLimitError, create({ input: "overload" }, once));
    await raises(OpenAI.InternalServerError, create({ input: "break" }, once));
    await raises(OpenAI.NotFoundError, create({ input: "x", previous_response_id: "resp_1" }));
    await raises(OpenAI.BadRequestError, create({ input: "x", tools: [{ type: "web_search" }] }));
    const events = await all(await create({ input: "break", stream: true }));
    equal(events.at(-1).type, "response.failed");
  },
  async lockedConversation() {
    const conversation = await client.conversations.create();
    const stream = await create({ input: "for ever", conversation: conversation.id, stream: true });
    const first = await stream[Symbol.asyncIterator]().next();
    await raises(OpenAI.ConflictError, create({ input: "x", conversation: conversation.id }), "conversation_locked");
    await client.responses.cancel(first.value.response.id);
  },
  async chatCompletions() {
    const messages = [{ role: "user", content: "hello" }];
    const whole = await client.chat.completions.create({ model: "m", messages });
    equal(whole.choices[0].message.content, "You said: hello");
    const stream = client.chat.completions.stream({ model: "m", messages });
    equal((await stream.finalChatCompletion()).choices[0].message.content, "You said: hello");
  },
});
