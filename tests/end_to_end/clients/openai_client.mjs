// OpenAI's own JavaScript client at our server. Prints what it got, as JSON.
// node openai_client.mjs <folder with node_modules> <address of /v1>
import { createRequire } from "node:module";
import path from "node:path";

const [folder, baseURL] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(folder), "package.json"));
const { OpenAI } = require("openai");

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const demo = { model: "demo", messages, temperature: 0 };
const got = {};

const whole = await client.chat.completions.create({ ...demo, logprobs: true, top_logprobs: 1 });
got.whole = whole.choices[0].message.content;
got.logprobs = whole.choices[0].logprobs.content.map((token) => token.token).join("");

got.streamed = "";
for await (const chunk of await client.chat.completions.create({
  ...demo,
  stream: true,
  stream_options: { include_usage: true },
})) {
  got.streamed += chunk.choices[0]?.delta?.content ?? "";
  got.usage = chunk.usage;
}

const completed = await client.completions.create({ model: "demo", prompt: messages[0].content, temperature: 0 });
got.completed = completed.choices[0].text;

const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
  },
];
const asked = {
  model: "scripted_chat",
  messages: [{ role: "user", content: "How is the weather in 'Rome'?" }],
  tools,
};
const call = await client.chat.completions.create(asked);
got.call = call.choices[0].message.tool_calls[0].function;
const stream = client.chat.completions.stream(asked);
const streamed = (await stream.finalChatCompletion()).choices[0];
got.streamedCall = streamed.message.tool_calls[0].function;
got.finishReason = streamed.finish_reason;

const structured = await client.chat.completions.create({
  ...demo,
  response_format: {
    type: "json_schema",
    json_schema: {
      name: "answer",
      strict: true,
      schema: {
        type: "object",
        properties: { yes: { type: "boolean" } },
        required: ["yes"],
        additionalProperties: false,
      },
    },
  },
});
got.structured = JSON.parse(structured.choices[0].message.content);

got.models = (await client.models.list()).data.map((model) => model.id);

try {
  await client.chat.completions.create({ ...demo, temperature: -1 });
} catch (error) {
  got.error = { name: error.constructor.name, status: error.status, param: error.param };
}

try {
  const script = JSON.stringify({ tokens: 9, interval_ms: 30, fail_at: 3 });
  const failing = { model: "scripted", messages: [{ role: "user", content: script }], stream: true };
  for await (const chunk of await client.chat.completions.create(failing)) void chunk;
} catch (error) {
  got.streamError = error.message;
}

process.stdout.write(JSON.stringify(got));
