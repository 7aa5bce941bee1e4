/**
 * The service that every dialect, transport and direction is tested with.
 *
 * Our own service in the tests has the same patterns and answers, so that either side can
 * be asked by either client.
 */
import { setTimeout as sleep } from 'node:timers/promises';

import { Controller, Module } from '@nestjs/common';
import { EventPattern, MessagePattern, RpcException } from '@nestjs/microservices';
import { concat, from, interval, map, range, take, throwError } from 'rxjs';

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

  nested(data) {
    return { got: data };
  }

  async wait(milliseconds) {
    await sleep(milliseconds);
    return milliseconds;
  }

  userCreated(event) {
    this.events.push(event);
  }

  seen() {
    return this.events;
  }
}

const REQUESTS = [
  ['sum', ['math.sum', { cmd: 'sum' }]],
  ['echo', 'echo'],
  ['failRpc', 'fail.rpc'],
  ['failText', 'fail.text'],
  ['failPlain', 'fail.plain'],
  ['streamCount', 'stream.count'],
  ['streamSlow', 'stream.slow'],
  ['streamFail', 'stream.fail'],
  ['void', 'void'],
  ['giveNull', 'give.null'],
  ['nested', { a: { b: 2, y: 's' }, z: 1 }],
  ['wait', 'wait'],
  ['seen', 'seen'],
];

for (const [method, pattern] of REQUESTS) decorateMethod(Interop, method, MessagePattern(pattern));
decorateMethod(Interop, 'userCreated', EventPattern('user.created'));
Controller()(Interop);

export class InteropModule {}
Module({ controllers: [Interop] })(InteropModule);
