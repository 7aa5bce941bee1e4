/**
 * What a NestJS client expects of the interop service, whoever runs it.
 *
 * A case is a name, a run that returns what was got, and what it should be (compared
 * deeply and strictly). A call's outcome is `{values}`, every value it got in order, or
 * `{values, error}` when it failed. Nothing is asked with null as its whole data: NestJS's
 * client refuses to send that. It can receive it, though (`give.null`).
 */
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';

const WORDS = {
  text: 'héllo ✓ 😀 #12#{"',
  escapes: '\u0000\n\t\\ \u2028',
  number: 1.5,
  yes: true,
  nothing: null,
  list: [1, [2, { key: 'värde' }]],
  object: { '': '', '😀': '日本' },
};
const ECHOES = [
  ['echo.object', WORDS],
  ['echo.zero', 0],
  ['echo.false', false],
  ['echo.empty-text', ''],
  ['echo.empty-list', []],
  ['echo.100kB', '0123456789'.repeat(10_000)],
  ['echo.100k-emoji', '😀'.repeat(100_000)],
  ['echo.null-inside', [null]],
];

/** Everything one call brought, by the end of its stream or its error. */
function outcome(call) {
  const values = [];
  return new Promise((resolve) => {
    call.subscribe({
      next: (value) => values.push(value),
      error: (error) => resolve({ values, error: error instanceof Error ? `${error}` : error }),
      complete: () => resolve({ values }),
    });
  });
}

async function waitUntilSeen(send, id) {
  for (const end = Date.now() + 2000; Date.now() < end; await sleep(20)) {
    const { values } = await send('seen', {});
    if (values[0]?.some((event) => event.id === id)) return 'seen';
  }
  return 'not seen within 2 s';
}

async function echoTogether(send, count) {
  const answers = await Promise.all(
    Array.from({ length: count }, (_, i) => send('echo', { i, pad: `p${i}` })),
  );
  return answers.map(({ values }) => values[0]?.i);
}

async function sumInTurn(send, count) {
  let right = 0;
  for (let i = 0; i < count; i += 1) {
    const { values } = await send('math.sum', [i, 1]);
    if (values.length === 1 && values[0] === i + 1) right += 1;
  }
  return right;
}

/** The cases for one connected client; `unheard` is the error of a pattern nobody handles. */
export function casesFor(client, { unheard }) {
  const send = (pattern, data) => outcome(client.send(pattern, data));
  const asked = (name, pattern, data, expected) => [name, () => send(pattern, data), expected];
  const failed = (name, pattern, error) => asked(name, pattern, {}, { values: [], error });
  const internal = { status: 'error', message: 'Internal server error' };
  const user = { id: randomUUID(), name: 'Ada' };

  const create = async () => {
    const { error } = await outcome(client.emit('user.created', user));
    return error ?? waitUntilSeen(send, user.id);
  };
  const crashAndLook = async () => [
    (await send('fail.plain', {})).error,
    await waitUntilSeen(send, user.id),
  ];

  return [
    asked('sum', 'math.sum', [1, 2, 3], { values: [6] }),
    asked('sum.object-pattern', { cmd: 'sum' }, [4, 5, 6], { values: [15] }),
    ...ECHOES.map(([name, data]) => asked(name, 'echo', data, { values: [data] })),
    failed('fail.rpc', 'fail.rpc', { status: 404, message: 'nope' }),
    failed('fail.text', 'fail.text', { status: 'error', message: 'refused' }),
    failed('fail.plain', 'fail.plain', internal),
    asked('sum.not-a-list', 'math.sum', 5, { values: [], error: internal }),
    asked('stream', 'stream.count', { n: 3 }, { values: [1, 2, 3] }),
    asked('stream.slow', 'stream.slow', {}, { values: [1, 2, 3] }),
    asked('stream.fail', 'stream.fail', {}, { values: [1, 2], error: { status: 500, message: 'mid' } }),
    asked('void', 'void', {}, { values: [] }),
    asked('give.null', 'give.null', {}, { values: [null] }),
    asked('wait', 'wait', 20, { values: [20] }),
    asked('nested-pattern', { z: 1, a: { y: 's', b: 2 } }, 'x', { values: [{ got: 'x' }] }),
    ...(unheard === null ? [] : [failed('unknown', 'nobody.home', unheard)]),
    ['event', create, 'seen'],
    ['event.kept-after-failure', crashAndLook, [internal, 'seen']],
    ['concurrent', () => echoTogether(send, 64), Array.from({ length: 64 }, (_, i) => i)],
    ['sequential', () => sumInTurn(send, 200), 200],
  ];
}
