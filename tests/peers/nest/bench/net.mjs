/**
 * The floor of the TCP benchmark: NestJS's framing over bare `node:net`, no framework.
 *
 * `node net.mjs [PORT]` prints `ready PORT`. It answers what nest.mjs answers, the replies
 * to one chunk in one write. Left out on purpose: limits, timeouts, backpressure, bad
 * JSON (which ends the process).
 */
import { createServer } from 'node:net';

import { endWithParent } from '../lifetime.mjs';
import { benchArguments } from './arguments.mjs';

const NO_HANDLER = 'There is no matching message handler defined in the remote service.';

const HANDLERS = {
  'math.sum': (numbers) => numbers.reduce((total, number) => total + number, 0),
  'orders.place': ({ id, items }) => ({
    id,
    total: items.reduce((total, item) => total + item.quantity * item.price, 0),
    lines: items.length,
  }),
};

function answer({ pattern, data, id }) {
  const handler = HANDLERS[pattern];
  if (!handler) return { id, status: 'error', err: NO_HANDLER };
  try {
    return { response: handler(data), isDisposed: true, id };
  } catch {
    const err = { status: 'error', message: 'Internal server error' };
    return { err, isDisposed: true, id };
  }
}

function serve(socket) {
  let rest = '';
  // Decoded text rather than bytes: a frame's length counts UTF-16 units.
  socket.setEncoding('utf8');
  socket.on('data', (chunk) => {
    const text = rest + chunk;
    let replies = '';
    let start = 0;
    for (;;) {
      const body = text.indexOf('#', start) + 1;
      if (body === 0) break;
      const end = body + Number(text.slice(start, body - 1));
      if (Number.isNaN(end)) return socket.destroy();
      if (end > text.length) break;
      const reply = JSON.stringify(answer(JSON.parse(text.slice(body, end))));
      replies += `${reply.length}#${reply}`;
      start = end;
    }
    rest = text.slice(start);
    if (replies) socket.write(replies);
  });
  socket.on('error', () => socket.destroy());
}

const { port } = benchArguments();
const server = createServer({ noDelay: true }, serve);
endWithParent();
server.listen(port, '127.0.0.1', () => console.log(`ready ${server.address().port}`));
