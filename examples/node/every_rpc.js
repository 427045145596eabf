// Calls every rpc of xlmstream from Node.js, with nothing but its protos.
//
//     npm install
//     node every_rpc.js [ADDRESS] [PROTOS]
//
// ADDRESS is that of a running gateway, PROTOS the folder that holds xlmstream/v1. Prints one JSON object: for each rpc
// what came of it, a result or the reason why the served model cannot do it.

"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const address = process.argv[2] ?? "127.0.0.1:50051";
const protos = process.argv[3] ?? path.join(__dirname, "..", "..", "protos");
const files = ["inference", "models", "server"].map((name) => `xlmstream/v1/${name}.proto`);
const definition = loader.loadSync([...files, "google/rpc/status.proto"], {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  oneofs: true,
  defaults: true,
});
const api = grpc.loadPackageDefinition(definition).xlmstream.v1;
const credentials = grpc.credentials.createInsecure();
const inference = new api.InferenceService(address, credentials);
const models = new api.ModelService(address, credentials);
const server = new api.ServerService(address, credentials);

const deadline = () => ({ deadline: Date.now() + 30_000 });

function unary(stub, name, request) {
  return new Promise((resolve, reject) => {
    stub[name](request, deadline(), (error, response) => (error ? reject(error) : resolve(response)));
  });
}

// The messages of a server stream, up to its end or to the first that `enough` accepts.
function collect(call, enough = () => false) {
  return new Promise((resolve, reject) => {
    const messages = [];
    call.on("data", (message) => {
      messages.push(message);
      if (enough(message)) {
        call.cancel();
        resolve(messages);
      }
    });
    call.on("end", () => resolve(messages));
    call.on("error", (error) => (error.code === grpc.status.CANCELLED ? resolve(messages) : reject(error)));
  });
}

// One stream of items: opens it, sends all items in one message, ends, and gathers the outputs by correlation id.
async function infer(open, items) {
  const call = inference.InferStream(deadline());
  const received = collect(call);
  call.write({ actions: [{ open }] });
  call.write({ actions: items.map((item) => ({ item })) });
  call.end();
  const events = (await received).flatMap((message) => message.events);
  const outputs = {};
  for (const { output } of events.filter((event) => event.event === "output")) {
    outputs[output.correlation_id] = output;
  }
  const finished = events[events.length - 1].finished;
  return { outputs, finished };
}

// An embedding is one block of little-endian numbers.
function floats(tensor) {
  return Array.from({ length: tensor.data.length / 4 }, (_, index) => tensor.data.readFloatLE(4 * index));
}

function only(response) {
  const [output] = response.outputs;
  if (output.outcome === "error") throw new Error(output.error.message);
  return output.result;
}

async function main() {
  const told = {};
  // A call that the model has no task for is told as such; anything else that fails ends the program.
  const attempt = async (name, call) => {
    try {
      told[name] = await call();
    } catch (error) {
      if (error.code !== grpc.status.FAILED_PRECONDITION) throw error;
      told[name] = { unsupported: error.details };
    }
  };

  const text = { text: "In the beginning" };
  const served = (await unary(models, "ListModels", {})).models;
  told.ListModels = served.map((each) => `${each.name}@${each.version}`);
  // The first model that can do a task; where none can, the answer will say so.
  const able = (task) => served.find((each) => each.tasks.includes(task)) ?? served[0];
  const named = (model) => ({ options: { model: `${model.name}@${model.version}` } });
  const on = (task) => named(able(task));
  const model = able("TASK_FILL_MASK");
  const mask = { text: `In the ${model.mask_token || "beginning"} was` };
  const pair = { question: { text: "who was there" }, context: { text: "in the beginning there was light" } };
  const choices = { prompt: text, choices: [{ text: "there was" }, { text: "we went" }] };

  await attempt("GetModel", async () => (await unary(models, "GetModel", { name: model.name })).model.name);
  await attempt("WatchModels", async () => {
    const seen = await collect(models.WatchModels({}, deadline()), () => true);
    return seen[0].models.length;
  });
  await attempt("GetServerInfo", async () => (await unary(server, "GetServerInfo", {})).limits.max_inputs);
  await attempt("GetLoad", async () => (await unary(server, "GetLoad", {})).models.length);

  await attempt("Tokenize", async () => {
    const { tokens } = only(await unary(inference, "Tokenize", { ...on("TASK_TOKENIZE"), inputs: [text] }));
    return tokens.map((token) => token.id);
  });
  await attempt("Detokenize", async () =>
    only(await unary(inference, "Detokenize", { ...on("TASK_TOKENIZE"), inputs: [{ ids: told.Tokenize }] })).text);

  const generation = { ...on("TASK_GENERATE"), parameters: { max_new_tokens: 4, ignore_eos: true } };
  await attempt("Generate", async () => {
    const [candidate] = only(await unary(inference, "Generate", { ...generation, inputs: [text] })).candidates;
    return candidate.token_ids;
  });
  let resumeToken = "";
  await attempt("GenerateStream", async () => {
    const seen = await collect(inference.GenerateStream({ ...generation, input: text }, deadline()));
    resumeToken = seen[0].event.started.resume_token;
    return seen.flatMap(({ event }) => (event.event === "delta" ? event.delta.token_ids : []));
  });
  if (resumeToken) {
    await attempt("ResumeStream", async () => {
      const seen = await collect(inference.ResumeStream({ resume_token: resumeToken, next_event: 1 }, deadline()));
      return seen.flatMap(({ event }) => (event.event === "delta" ? event.delta.token_ids : []));
    });
    await attempt("CancelRequest", async () => {
      const answer = await unary(inference, "CancelRequest", { execution_id: resumeToken.split(".")[0] });
      return answer.cancelled;
    });
  }

  // Any language of the model but the first, into the first.
  const [into, from] = able("TASK_TRANSLATE").languages;
  const translation = { ...on("TASK_TRANSLATE"), target_language: into, parameters: { max_new_tokens: 4 } };
  const foreign = { ...text, language: from };
  await attempt("Translate", async () => {
    const [candidate] = only(await unary(inference, "Translate", { ...translation, inputs: [foreign] })).candidates;
    return candidate.text;
  });
  await attempt("TranslateStream", async () => {
    const seen = await collect(inference.TranslateStream({ ...translation, input: foreign }, deadline()));
    return seen.map(({ event }) => (event.event === "delta" ? event.delta.text : "")).join("");
  });

  await attempt("Embed", async () => {
    const request = { ...on("TASK_EMBED"), inputs: [text], parameters: { normalize: true } };
    const { embedding } = only(await unary(inference, "Embed", request));
    return { shape: embedding.shape, length: Math.hypot(...floats(embedding)) };
  });
  const one = async (rpc, task, input) => only(await unary(inference, rpc, { ...on(task), inputs: [input] }));
  await attempt("FillMask", async () => (await one("FillMask", "TASK_FILL_MASK", mask)).text);
  await attempt("ClassifySequence", async () =>
    (await one("ClassifySequence", "TASK_CLASSIFY_SEQUENCE", { text })).labels[0].label);
  await attempt("ClassifyTokens", async () =>
    (await one("ClassifyTokens", "TASK_CLASSIFY_TOKENS", text)).words.map((word) => word.text));
  await attempt("AnswerQuestion", async () =>
    (await one("AnswerQuestion", "TASK_ANSWER_QUESTION", pair)).answers[0].text);
  await attempt("ChooseMultiple", async () =>
    (await one("ChooseMultiple", "TASK_CHOOSE_MULTIPLE", choices)).choices.length);
  await attempt("Score", async () => (await one("Score", "TASK_SCORE", text)).perplexity);

  await attempt("InferStream", async () => {
    const { outputs, finished } = await infer(on("TASK_EMBED"), [
      { correlation_id: 1, tokenize: { input: text } },
      { correlation_id: 2, tokenize: { input: { text: " " } } },
      { correlation_id: 3, embed: { input: text } },
    ]);
    return {
      tokens: outputs[1].tokenize.tokens.map((token) => token.id),
      error: outputs[2].error.message,
      embed: outputs[3].outcome === "error" ? outputs[3].error.message : outputs[3].embed.embedding.shape,
      outputs: finished.outputs,
    };
  });

  console.log(JSON.stringify(told));
}

main().then(
  () => [inference, models, server].forEach((stub) => stub.close()),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
