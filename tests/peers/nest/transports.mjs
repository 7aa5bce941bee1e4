/**
 * How a NestJS peer is told to speak each transport: one table entry per transport.
 *
 * An entry turns a URL and an optional queue name into NestJS's options, for server and
 * client alike, and says what a client sees when nobody handles a pattern there
 * (`null`: nothing comes back, so that there is no case to run).
 *
 * The rest is only where a transport needs it. `module` is what a server serves, and
 * `cases` what a client tries. `prepared` makes the topics that must be there before either
 * starts; `subscribed` waits until the broker knows the server's subscriptions, where NestJS
 * itself does not wait for it; `connected` connects a client where that takes more than
 * `connect`. `bare` says what becomes of a value that crosses without a packet around it.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { Transport } from '@nestjs/microservices';
import kafkajs from 'kafkajs';

import { casesFor, mathCasesFor, streamCasesFor } from './cases.mjs';
import {
  EVENTS,
  InteropModule,
  MathModule,
  PATTERNS,
  StreamsModule,
  TextPatternsModule,
} from './interop.mjs';

const NO_HANDLER = 'There is no matching message handler defined in the remote service.';
const TOPICS = [...PATTERNS.flatMap((pattern) => [pattern, `${pattern}.reply`]), ...EVENTS];

const TRANSPORTS = {
  tcp: {
    unheard: NO_HANDLER,
    options: (url) => ({
      transport: Transport.TCP,
      options: { host: url.hostname, port: Number(url.port) },
    }),
    // Port 0 lets the system choose, so the caller has to be told what it chose.
    bound: (app) => {
      const { address, port } = app.unwrap().address();
      return `tcp://${address}:${port}`;
    },
  },
  // In place of a queue: the folder with the certificates, which both sides have to show.
  tcps: {
    unheard: NO_HANDLER,
    options: (url, folder) => ({
      transport: Transport.TCP,
      options: {
        host: url.hostname,
        port: Number(url.port),
        tlsOptions: {
          ca: readFileSync(`${folder}/ca.pem`),
          cert: readFileSync(`${folder}/server.pem`),
          key: readFileSync(`${folder}/server.key`),
          requestCert: true,
          rejectUnauthorized: true,
        },
      },
    }),
    bound: (app) => {
      const { address, port } = app.unwrap().address();
      return `tcps://${address}:${port}`;
    },
  },
  nats: {
    unheard:
      'Error: Empty response. There are no subscribers listening to that message ("nobody.home")',
    options: (url, queue) => ({
      transport: Transport.NATS,
      options: { servers: url.host, ...login(url, 'user', 'pass'), ...(queue && { queue }) },
    }),
    subscribed: (app) => app.unwrap().flush(),
  },
  // Every server that subscribes answers, and a channel without any is silence.
  redis: {
    unheard: null,
    options: (url) => ({
      transport: Transport.REDIS,
      options: {
        host: url.hostname,
        port: Number(url.port),
        ...login(url, 'username', 'password'),
      },
    }),
    subscribed: (app) => app.unwrap()[0].ping(),
  },
  // The queue is durable and messages are acknowledged on receipt: NestJS's own defaults.
  rmq: {
    unheard: NO_HANDLER,
    options: (url, queue) => ({
      transport: Transport.RMQ,
      options: { urls: [url.href], ...(queue && { queue }) },
    }),
  },
  // As on Redis. Subscriptions are answered in turn, so that the last answer is for all.
  // A NestJS client gives up a reply topic with the first of several answers on their way to
  // it, and loses the others: those that are asked for together are one more to its count.
  mqtt: {
    unheard: null,
    options: (url) => ({
      transport: Transport.MQTT,
      options: { url: `mqtt://${url.host}`, ...login(url, 'username', 'password') },
    }),
    subscribed: (app) => app.unwrap().subscribeAsync('interop/subscribed'),
    connected: async (client) => {
      await client.connect();
      for (const topic of ['echo/reply', 'math.sum/reply']) {
        await client.unwrap().subscribeAsync(topic);
        client.subscriptionsCount.set(topic, 1);
      }
    },
  },
  // A topic's name is its pattern, and a topic that nobody reads is silence.
  kafka: {
    unheard: null,
    bare: (value) => (value === null || typeof value === 'object' ? value : String(value)),
    inTurn: 50,
    module: TextPatternsModule,
    options: (url, group) => ({
      transport: Transport.KAFKA,
      options: {
        client: {
          brokers: [url.host],
          ...(url.username && {
            sasl: { mechanism: 'plain', ...login(url, 'username', 'password') },
          }),
        },
        // What waits for messages is waited for when it ends: five seconds by default.
        consumer: { ...(group && { groupId: group }), maxWaitTimeInMs: 100 },
        // By default a new group begins where it first looks, which is after it is `ready`.
        subscribe: { fromBeginning: true },
      },
    }),
    prepared: async ({ client }, topics = TOPICS) => {
      const admin = new kafkajs.Kafka({ ...client, logLevel: kafkajs.logLevel.NOTHING }).admin();
      await admin.connect();
      await admin.createTopics({ topics: topics.map((topic) => ({ topic, numPartitions: 1 })) });
      await admin.disconnect();
    },
    connected: (client) => {
      for (const pattern of PATTERNS) client.subscribeToResponseOf(pattern);
      return client.connect();
    },
  },
  grpc: grpc('Math', 'interop', MathModule, mathCasesFor),
  'grpc-streams': grpc('Streams', 'streams', StreamsModule, streamCasesFor),
};

/** An entry for one service of the `.proto` that its package is named after. */
function grpc(service, name, module, cases) {
  return {
    module,
    cases,
    options: (url) => ({
      transport: Transport.GRPC,
      options: {
        url: url.host,
        package: name,
        protoPath: fileURLToPath(new URL(`${name}.proto`, import.meta.url)),
        // Others leave zeros out, and NestJS would have its handlers miss them.
        loader: { defaults: true },
      },
    }),
    connected: (client) =>
      new Promise((resolve, reject) => {
        const done = (error) => (error ? reject(error) : resolve());
        client.getClientByServiceName(service).waitForReady(Date.now() + 5000, done);
      }),
  };
}

/** The user and password of a URL, under the names that a client library has for them. */
function login(url, user, password) {
  if (!url.username) return {};
  return {
    [user]: decodeURIComponent(url.username),
    [password]: decodeURIComponent(url.password),
  };
}

/** The table entry, NestJS options and URL that `TRANSPORT URL [QUEUE]` ask for. */
export function transportFrom([name, url, queue]) {
  const entry = TRANSPORTS[name];
  if (!entry || !URL.canParse(url ?? '')) {
    const known = Object.keys(TRANSPORTS).join(', ');
    console.error(`expected: TRANSPORT URL [QUEUE], where TRANSPORT is one of ${known}`);
    process.exit(2);
  }
  const options = entry.options(new URL(url), queue);
  return {
    module: InteropModule,
    cases: casesFor,
    connected: (client) => client.connect(),
    ...entry,
    url,
    options,
    prepared: async (topics) => entry.prepared?.(options.options, topics),
  };
}
