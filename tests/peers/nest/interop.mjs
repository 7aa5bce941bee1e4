/**
 * The service that every dialect, transport and direction is tested with.
 *
 * Our own service in the tests has the same patterns and answers, so that either side can
 * be asked by either client. A transport whose names cannot be objects has the module
 * without those patterns; gRPC, whose methods a `.proto` names, has services of its own.
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { Controller, Module } from '@nestjs/common';
import {
  EventPattern,
  GrpcMethod,
  GrpcStreamMethod,
  MessagePattern,
  RpcException,
} from '@nestjs/microservices';
import { concat, from, interval, map, range, reduce, scan, take, throwError } from 'rxjs';

import { decorateMethod } from './decorate.mjs';

class Interop {
  events = [];

  /** Anything but a list has no `reduce`: a TypeError, "Internal server error" to callers. */
  sum(numbers) {
    return numbers.reduce((total, number) => total + number, 0);
  }

  echo(data) {
    return data;
  }

  failRpc() {
    throw new RpcException({ status: 404, message: 'nope' });
  }

  failText() {
    throw new RpcException('refused');
  }

  failPlain() {
    throw new Error('a secret that no caller may see');
  }

  streamCount(data) {
    return range(1, data?.n ?? 3);
  }

  streamSlow(data) {
    return interval(30).pipe(take(data?.n ?? 3), map((index) => index + 1));
  }

  streamFail() {
    const failure = throwError(() => new RpcException({ status: 500, message: 'mid' }));
    return concat(from([1, 2]), failure);
  }

  void() {}

  giveNull() {
    return null;
  }

  /** On Kafka a number comes as its text. */
  async wait(milliseconds) {
    await sleep(Number(milliseconds));
    return milliseconds;
  }

  userCreated(event) {
    this.events.push(event);
  }

  seen() {
    return this.events;
  }
}

/** What only some transports can name. */
class ObjectPatterns {
  sum(numbers) {
    return numbers.reduce((total, number) => total + number, 0);
  }

  nested(data) {
    return { got: data };
  }
}

/** The service of interop.proto. */
class MathService {
  sum({ values }) {
    return { value: values.reduce((total, number) => total + number, 0) };
  }

  count({ value }) {
    return range(1, value).pipe(map((number) => ({ value: number })));
  }

  fail() {
    throw new RpcException({ code: 5, message: 'nope' });
  }
}

/** The service of streams.proto, whose calls bring a stream each. */
class StreamsService {
  total(parts) {
    return parts.pipe(reduce((total, { value }) => total + value, 0), map(asPart));
  }

  running(parts) {
    return parts.pipe(scan((total, { value }) => total + value, 0), map(asPart));
  }

  refuse() {
    throw new RpcException({ code: 9, message: 'not now' });
  }
}
const asPart = (value) => ({ value });

const REQUESTS = [
  ['sum', 'math.sum'],
  ['echo', 'echo'],
  ['failRpc', 'fail.rpc'],
  ['failText', 'fail.text'],
  ['failPlain', 'fail.plain'],
  ['streamCount', 'stream.count'],
  ['streamSlow', 'stream.slow'],
  ['streamFail', 'stream.fail'],
  ['void', 'void'],
  ['giveNull', 'give.null'],
  ['wait', 'wait'],
  ['seen', 'seen'],
];

/** The requests that every transport but gRPC has. */
export const PATTERNS = REQUESTS.map(([, pattern]) => pattern);
export const EVENTS = ['user.created'];

for (const [method, pattern] of REQUESTS) decorateMethod(Interop, method, MessagePattern(pattern));
for (const event of EVENTS) decorateMethod(Interop, 'userCreated', EventPattern(event));
decorateMethod(ObjectPatterns, 'sum', MessagePattern({ cmd: 'sum' }));
decorateMethod(ObjectPatterns, 'nested', MessagePattern({ a: { b: 2, y: 's' }, z: 1 }));
for (const method of ['sum', 'count', 'fail']) {
  decorateMethod(MathService, method, GrpcMethod('Math'));
}
for (const method of ['total', 'running', 'refuse']) {
  decorateMethod(StreamsService, method, GrpcStreamMethod('Streams'));
}
for (const controller of [Interop, ObjectPatterns, MathService, StreamsService]) {
  Controller()(controller);
}

export class InteropModule {}
Module({ controllers: [Interop, ObjectPatterns] })(InteropModule);

export class TextPatternsModule {}
Module({ controllers: [Interop] })(TextPatternsModule);

export class MathModule {}
Module({ controllers: [MathService] })(MathModule);

export class StreamsModule {}
Module({ controllers: [StreamsService] })(StreamsModule);
