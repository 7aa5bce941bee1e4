/**
 * NestJS in the broker benchmarks: `node broker.mjs TRANSPORT URL [QUEUE] [--messages N
 * --warmup W]`.
 *
 * With `--messages` it prints `warm` after the events of the warm-up, then counts that many more,
 * prints the seconds and CPU seconds they took as JSON, and ends; without, it answers orders
 * until its standard input closes. On RabbitMQ it acknowledges by hand what it has handled, as
 * ours does, and has as many messages in hand; on MQTT a queue is the name of a session, whose
 * messages come at QoS 1; on Kafka it is a group. No ValidationPipe: handlers get whatever
 * JSON.parse made.
 */
import 'reflect-metadata';

import { parseArgs } from 'node:util';

import { Controller, Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Ctx, EventPattern, MessagePattern, Payload } from '@nestjs/microservices';

import { decorateMethod } from '../decorate.mjs';
import { endWithParent } from '../lifetime.mjs';
import { transportFrom } from '../transports.mjs';

const IN_HAND = 256;

const { values, positionals } = parseArgs({
  options: { messages: { type: 'string' }, warmup: { type: 'string', default: '1' } },
  allowPositionals: true,
});
const first = Number(values.warmup) + 1;
const last = Number(values.warmup) + Number(values.messages);
let count = 0;
let began;

class Bench {
  created(order, context) {
    acknowledge(context);
    count += 1;
    if (count === first - 1) console.log('warm');
    if (count === first) began = [performance.now(), process.cpuUsage()];
    if (count === last) tell();
  }

  place(order, context) {
    const total = order.items.reduce((sum, item) => sum + item.quantity * item.price, 0);
    acknowledge(context);
    return { id: order.id, total, lines: order.items.length };
  }
}
decorateMethod(Bench, 'created', EventPattern('bench.created'));
decorateMethod(Bench, 'place', MessagePattern('orders.place'));
for (const method of ['created', 'place']) {
  Payload()(Bench.prototype, method, 0);
  Ctx()(Bench.prototype, method, 1);
}
Controller()(Bench);

class BenchModule {}
Module({ controllers: [Bench] })(BenchModule);

const transport = transportFrom(positionals);
const [name, , queue] = positionals;
const queued = name === 'rmq';
if (name === 'mqtt' && queue) {
  Object.assign(transport.options.options, {
    clientId: queue,
    clean: false,
    subscribeOptions: { qos: 1 },
  });
}
if (queued) {
  Object.assign(transport.options.options, {
    noAck: false,
    prefetchCount: IN_HAND,
    // Off by default in amqplib: answers wait for TCP's delayed acknowledgements, 40 ms, then.
    socketOptions: { connectionOptions: { noDelay: true } },
  });
}
const app = await NestFactory.createMicroservice(BenchModule, {
  ...transport.options,
  logger: false,
});
endWithParent(() => app.close());
await transport.prepared(['bench.created', 'orders.place']);
await app.listen();
await transport.subscribed?.(app);
console.log('ready');

function acknowledge(context) {
  if (queued) context.getChannelRef().ack(context.getMessage());
}

async function tell() {
  const { user, system } = process.cpuUsage(began[1]);
  const found = { seconds: (performance.now() - began[0]) / 1e3, cpu: (user + system) / 1e6 };
  // Later than the event that was counted last, whose acknowledgement is still to be sent.
  await new Promise((resolve) => setTimeout(resolve, 50));
  await app.close();
  console.log(JSON.stringify(found));
  process.exit(0);
}
