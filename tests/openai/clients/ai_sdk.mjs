// The AI SDK with @ai-sdk/openai, whose default model speaks the Responses API.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { BASE_URL, equal, ok, run, version } from "./steps.mjs";

const openai = createOpenAI({ baseURL: BASE_URL, apiKey: "any" });
const model = openai("gpt-4o");
const tools = {
  get_weather: tool({
    description: "The weather of a city",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `21 °C in ${city}`,
  }),
};

await run(`AI SDK ${version("ai")} with @ai-sdk/openai ${version("@ai-sdk/openai")}`, {
  async generate() {
    const { text, usage, response } = await generateText({ model, system: "Be short.", prompt: "hello" });
    equal([text, usage.totalTokens], ["You said: hello", 16]);
    ok(response.id.startsWith("resp_"));
  },
  async stream() {
    const result = streamText({ model, prompt: "hello" });
    let text = "";
    for await (const part of result.textStream) text += part;
    equal([text, await result.finishReason], ["You said: hello", "stop"]);
  },
  async reasoning() {
    const { reasoningText } = await generateText({ model: openai("gpt-5"), prompt: "think" });
    equal(reasoningText, "Let me see.");
    const result = streamText({ model: openai("gpt-5"), prompt: "think" });
    equal(await result.reasoningText, "Let me see.");
  },
  async tools() {
    const asked = { model, tools, stopWhen: stepCountIs(5), prompt: "weather?" };
    equal((await generateText(asked)).text, "The tool says: 21 °C in Seoul");
    equal(await streamText(asked).text, "The tool says: 21 °C in Seoul");
  },
  async repliesByIdAlone() {
    const first = await generateText({ model: openai("gpt-5"), prompt: "think" });
    const messages = [
      { role: "user", content: "think" },
      ...first.response.messages,
      { role: "user", content: "two" },
    ];
    equal((await generateText({ model: openai("gpt-5"), messages })).text, "You said: think / two");
  },
  async toolsByIdAlone() {
    const first = await generateText({ model, tools, stopWhen: stepCountIs(5), prompt: "weather?" });
    const messages = [
      { role: "user", content: "weather?" },
      ...first.response.messages,
      { role: "user", content: "two" },
    ];
    equal((await generateText({ model, messages })).text, "You said: weather? / two");
  },
  async object() {
    const schema = z.object({ name: z.string(), age: z.number() });
    equal((await generateObject({ model, schema, prompt: "Who?" })).object, { name: "Kim", age: 30 });
  },
  async previousResponse() {
    const first = await generateText({ model, prompt: "one" });
    const providerOptions = { openai: { previousResponseId: first.response.id } };
    equal((await generateText({ model, prompt: "two", providerOptions })).text, "You said: one / two");
  },
  async conversation() {
    const answer = await fetch(`${BASE_URL}/conversations`, { method: "POST" });
    const providerOptions = { openai: { conversation: (await answer.json()).id } };
    await generateText({ model, prompt: "one", providerOptions });
    equal((await generateText({ model, prompt: "two", providerOptions })).text, "You said: one / two");
  },
  async conversationWithTools() {
    const answer = await fetch(`${BASE_URL}/conversations`, { method: "POST" });
    const providerOptions = { openai: { conversation: (await answer.json()).id } };
    const asked = { model, tools, stopWhen: stepCountIs(5), prompt: "weather in two", providerOptions };
    equal((await generateText(asked)).text, "The tool says: 21 °C in Busan");
    equal(await streamText(asked).text, "The tool says: 21 °C in Busan");
  },
  async chatCompletions() {
    equal((await generateText({ model: openai.chat("m"), prompt: "hello" })).text, "You said: hello");
    equal(await streamText({ model: openai.chat("m"), prompt: "hello" }).text, "You said: hello");
  },
  async incomplete() {
    equal((await generateText({ model, prompt: "too long" })).finishReason, "length");
  },
  async errors() {
    try {
      await generateText({ model, prompt: "reject", maxRetries: 0 });
    } catch (error) {
      equal(error.statusCode, 400);
      return;
    }
    throw new Error("no error");
  },
});
