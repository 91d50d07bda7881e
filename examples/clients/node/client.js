// Minimal client of a judge server, which compares two responses.
// Run: npm install, then node client.js [HOST:PORT]
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const includeDirs = [path.join(__dirname, "../../../protos")];
const options = { includeDirs, keepCase: true, enums: String, longs: Number };
const definition = loader.loadSync("judge_service/v1/judge.proto", options);
const { JudgeService } = grpc.loadPackageDefinition(definition).judge_service.v1;

const server = process.argv[2] ?? "127.0.0.1:50051";
const judge = new JudgeService(server, grpc.credentials.createInsecure());
const request = {
  conversation: [{ role: "ROLE_USER", content: "My parcel is three days late." }],
  response_a: "I am sorry. I will call the depot now and write to you by noon.",
  response_b: "Someone will look into it.",
};
const deadline = Date.now() + 120_000; // a judge on a CPU is slow
judge.comparePair(request, { deadline }, (error, reply) => {
  if (error) {
    console.error(`error: ${server}: ${error.message}`); // the message starts with the status code
    process.exitCode = 1;
  } else {
    const { verdict, prob_a, abstention } = reply.judgment; // an abstention has no probability
    console.log(verdict, prob_a?.toFixed(3) ?? `${abstention.reason}: ${abstention.detail}`);
  }
  judge.close();
});
