/**
 * How a NestJS peer is told to speak each transport: one table entry per transport.
 *
 * An entry turns a URL and an optional queue name into NestJS's options, for server and
 * client alike, and says what a client sees when nobody handles a pattern there
 * (`null`: nothing comes back, so that there is no case to run). `subscribed` waits until
 * the broker knows the server's subscriptions, where NestJS itself does not wait for it.
 */
import { Transport } from '@nestjs/microservices';

const NO_HANDLER = 'There is no matching message handler defined in the remote service.';

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
};

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
  return { ...entry, url, options: entry.options(new URL(url), queue) };
}
