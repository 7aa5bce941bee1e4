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

import { map, range } from 'rxjs';

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

async function sumInTurn(send, count, arrives) {
  let right = 0;
  for (let i = 0; i < count; i += 1) {
    const { values } = await send('math.sum', [i, 1]);
    if (values.length === 1 && values[0] === arrives(i + 1)) right += 1;
  }
  return right;
}

/**
 * The cases for one connected client.
 *
 * `unheard` is the error of a pattern that nobody handles. Where values cross `bare`, what
 * is expected of them is what that makes of them, an end without a value comes as null, and
 * there are no object patterns.
 */
export function casesFor(client, { unheard, bare, inTurn = 200 }) {
  const send = (pattern, data) => outcome(client.send(pattern, data));
  const asked = (name, pattern, data, expected) => {
    const { values, ...rest } = expected;
    const bared = bare ? values.map(bare) : values;
    return [name, () => send(pattern, data), { values: bared, ...rest }];
  };
  const failed = (name, pattern, error) => asked(name, pattern, {}, { values: [], error });
  const midway = { status: 500, message: 'mid' };
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

  const objectPatterns = [
    asked('sum.object-pattern', { cmd: 'sum' }, [4, 5, 6], { values: [15] }),
    asked('nested-pattern', { z: 1, a: { y: 's', b: 2 } }, 'x', { values: [{ got: 'x' }] }),
  ];
  return [
    asked('sum', 'math.sum', [1, 2, 3], { values: [6] }),
    ...ECHOES.map(([name, data]) => asked(name, 'echo', data, { values: [data] })),
    failed('fail.rpc', 'fail.rpc', { status: 404, message: 'nope' }),
    failed('fail.text', 'fail.text', { status: 'error', message: 'refused' }),
    failed('fail.plain', 'fail.plain', internal),
    asked('sum.not-a-list', 'math.sum', 5, { values: [], error: internal }),
    asked('stream', 'stream.count', { n: 3 }, { values: [1, 2, 3] }),
    asked('stream.slow', 'stream.slow', {}, { values: [1, 2, 3] }),
    asked('stream.fail', 'stream.fail', {}, { values: [1, 2], error: midway }),
    asked('void', 'void', {}, { values: bare ? [null] : [] }),
    asked('give.null', 'give.null', {}, { values: [null] }),
    asked('wait', 'wait', 20, { values: [20] }),
    ...(bare ? [] : objectPatterns),
    ...(unheard === null ? [] : [failed('unknown', 'nobody.home', unheard)]),
    ['event', create, 'seen'],
    ['event.kept-after-failure', crashAndLook, [internal, 'seen']],
    ['concurrent', () => echoTogether(send, 64), Array.from({ length: 64 }, (_, i) => i)],
    ['sequential', () => sumInTurn(send, inTurn, bare ?? ((value) => value)), inTurn],
  ];
}

/** The cases of gRPC calls that bring a stream, of streams.proto. */
export function streamCasesFor(client) {
  const streams = client.getService('Streams');
  const part = (value) => ({ value });
  const parts = (count) => range(1, count).pipe(map(part));
  const thousand = Array.from({ length: 1000 }, (_, i) => part(((i + 1) * (i + 2)) / 2));

  return [
    ['total', () => outcome(streams.total(parts(3))), { values: [part(6)] }],
    ['total.nothing', () => outcome(streams.total(parts(0))), { values: [part(0)] }],
    ['total.1k', () => outcome(streams.total(parts(1000))), { values: [part(500_500)] }],
    ['running', () => outcome(streams.running(parts(3))), { values: [1, 3, 6].map(part) }],
    ['running.1k', () => outcome(streams.running(parts(1000))), { values: thousand }],
    [
      'refuse',
      () => outcome(streams.refuse(parts(3))),
      { values: [], error: 'Error: 9 FAILED_PRECONDITION: not now' },
    ],
  ];
}

/** The cases of gRPC, whose service is that of interop.proto. */
export function mathCasesFor(client) {
  const math = client.getService('Math');
  const asked = (name, call, expected) => [name, () => outcome(call()), expected];
  const total = (value) => ({ value });
  const sums = (count) => Promise.all(
    Array.from({ length: count }, (_, i) => outcome(math.sum({ values: [i, 1] }))),
  );
  const sumsInTurn = async (count) => {
    const answers = [];
    for (let i = 0; i < count; i += 1) answers.push(await outcome(math.sum({ values: [i, 1] })));
    return answers;
  };
  const upTo = (count) => Array.from({ length: count }, (_, i) => total(i + 1));
  const wanted = (count) => upTo(count).map((each) => ({ values: [each] }));
  const extremes = [2147483647, -2147483648];
  const many = Array(10_000).fill(-2);

  return [
    asked('sum', () => math.sum({ values: [1, 2, 3] }), { values: [total(6)] }),
    asked('sum.nothing', () => math.sum({}), { values: [total(0)] }),
    asked('sum.extremes', () => math.sum({ values: extremes }), { values: [total(-1)] }),
    asked('sum.10k', () => math.sum({ values: many }), { values: [total(-20_000)] }),
    asked('count', () => math.count({ value: 3 }), { values: [1, 2, 3].map(total) }),
    asked('count.nothing', () => math.count({}), { values: [] }),
    asked('count.1k', () => math.count({ value: 1000 }), { values: upTo(1000) }),
    asked('fail', () => math.fail({ value: 1 }), { values: [], error: 'Error: 5 NOT_FOUND: nope' }),
    ['concurrent', () => sums(64), wanted(64)],
    ['sequential', () => sumsInTurn(200), wanted(200)],
  ];
}
