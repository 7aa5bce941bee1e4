/**
 * A real NestJS microservice: `node server.mjs TRANSPORT URL [QUEUE]`, on Kafka the group.
 *
 * Prints the URL it is reached at, then `ready`, each on its own line; a TCP port of 0 is
 * the system's choice. Ends on SIGTERM or when its standard input closes. NestJS's error
 * log goes to standard error when PEER_LOG is set; it is off otherwise, since a pipe that
 * nobody reads would stop the service once it is full.
 */
import 'reflect-metadata';

import { NestFactory } from '@nestjs/core';

import { endWithParent } from './lifetime.mjs';
import { transportFrom } from './transports.mjs';

const transport = transportFrom(process.argv.slice(2));
const app = await NestFactory.createMicroservice(transport.module, {
  ...transport.options,
  logger: process.env.PEER_LOG ? ['error', 'fatal'] : false,
});
endWithParent(() => app.close());
await transport.prepared();
await app.listen();
await transport.subscribed?.(app);
console.log(transport.bound?.(app) ?? transport.url);
console.log('ready');
