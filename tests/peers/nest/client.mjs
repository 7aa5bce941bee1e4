/**
 * A real NestJS client against whoever serves: `node client.mjs TRANSPORT URL [QUEUE]`.
 *
 * Prints one JSON line per case, `{"case", "ok", "got"}` and `"expected"` when they
 * differ; exits 1 if any failed. A case has 5 s; without a connection none is run.
 */
import 'reflect-metadata';

import { isDeepStrictEqual } from 'node:util';

import { Logger } from '@nestjs/common';
import { ClientProxyFactory } from '@nestjs/microservices';

import { transportFrom } from './transports.mjs';

const CASE_TIMEOUT = 5000;
const SHOWN = 2000;

function withinTimeout(run) {
  let timer;
  const late = new Promise((resolve) => {
    timer = setTimeout(resolve, CASE_TIMEOUT, `nothing within ${CASE_TIMEOUT} ms`);
  });
  return Promise.race([run(), late])
    .catch((error) => `raised ${error}`)
    .finally(() => clearTimeout(timer));
}

function shown(value) {
  const text = JSON.stringify(value) ?? 'undefined';
  return text.length <= SHOWN ? value : `${text.slice(0, 40)}... (${text.length} characters)`;
}

async function runCase([name, run, expected]) {
  const got = await withinTimeout(run);
  const ok = isDeepStrictEqual(got, expected);
  const line = { case: name, ok, got: shown(got), ...(ok ? {} : { expected: shown(expected) }) };
  console.log(JSON.stringify(line));
  return ok;
}

// Standard output carries the cases and nothing else.
Logger.overrideLogger(false);
const transport = transportFrom(process.argv.slice(2));
await transport.prepared();
const client = ClientProxyFactory.create(transport.options);
const connect = async () => (await transport.connected(client), 'connected');
let failures = (await runCase(['connect', connect, 'connected'])) ? 0 : 1;
if (failures === 0) {
  for (const one of transport.cases(client, transport)) failures += (await runCase(one)) ? 0 : 1;
}
client.close();
process.exit(failures === 0 ? 0 : 1);
