// openai-agents for JavaScript: agents with tools, streams, structured output, and conversations kept here.
import { Agent, OpenAIConversationsSession, Runner, setDefaultOpenAIClient, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
import { BASE_URL, equal, ok, run, version } from "./steps.mjs";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: "any" });
setDefaultOpenAIClient(client);
setTracingDisabled(true);
const calls = [];
const getWeather = tool({
  name: "get_weather",
  description: "The weather of a city",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    calls.push(city);
    return `21 °C in ${city}`;
  },
});
const agent = (more = {}) => new Agent({ name: "A", instructions: "Be short.", model: "m", ...more });
const runner = new Runner();

await run(`openai-agents (JavaScript) ${version("@openai/agents")}`, {
  async plain() {
    equal((await runner.run(agent(), "hello")).finalOutput, "You said: hello");
  },
  async streamed() {
    const result = await runner.run(agent(), "hello", { stream: true });
    let text = "";
    for await (const part of result.toTextStream()) text += part;
    await result.completed;
    equal([text, result.finalOutput], ["You said: hello", "You said: hello"]);
  },
  async tools() {
    const result = await runner.run(agent({ tools: [getWeather] }), "weather in two cities");
    equal(result.finalOutput, "The tool says: 21 °C in Busan");
    equal(calls, ["Seoul", "Busan"]);
  },
  async toolsStreamed() {
    const result = await runner.run(agent({ tools: [getWeather] }), "weather?", { stream: true });
    const names = [];
    for await (const event of result) if (event.type === "run_item_stream_event") names.push(event.name);
    equal(names, ["tool_called", "tool_output", "message_output_created"]);
  },
  async structuredOutput() {
    const outputType = z.object({ name: z.string(), age: z.number() });
    equal((await runner.run(agent({ outputType }), "Who?")).finalOutput, { name: "Kim", age: 30 });
  },
  async previousResponse() {
    const first = await runner.run(agent(), "one");
    const second = await runner.run(agent(), "two", { previousResponseId: first.lastResponseId });
    equal(second.finalOutput, "You said: one / two");
  },
  async conversation() {
    const { id } = await client.conversations.create({});
    await runner.run(agent({ tools: [getWeather] }), "weather?", { conversationId: id });
    equal((await runner.run(agent(), "two", { conversationId: id })).finalOutput, "You said: weather? / two");
  },
  async conversationsSession() {
    const session = new OpenAIConversationsSession({ client });
    await runner.run(agent({ tools: [getWeather] }), "weather?", { session });
    equal((await runner.run(agent(), "two", { session })).finalOutput, "You said: weather? / two");
    equal((await session.getItems()).length, 6);
    ok(await session.popItem());
    equal((await session.getItems()).length, 5);
    await session.clearSession();
  },
  async reasoning() {
    const result = await runner.run(agent(), "think");
    equal(result.finalOutput, "I thought.");
  },
  async cancelled() {
    const result = await runner.run(agent(), "for ever", { stream: true });
    let id;
    for await (const event of result) {
      if (event.type !== "raw_model_stream_event") continue;
      const raw = event.data.event ?? {};
      id ??= raw.response?.id;
      if (event.data.type === "output_text_delta" && event.data.delta === "on") await client.responses.cancel(id);
    }
    equal(result.finalOutput, "On and on");
  },
});
