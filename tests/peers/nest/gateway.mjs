/**
 * A real NestJS gateway on plain WebSocket: `node gateway.mjs [PORT]`.
 *
 * Prints the URL it is reached at, then `ready`, each on its own line. Our own service in
 * the tests has the same events and answers. Ends on SIGTERM or when its standard input
 * closes.
 */
import 'reflect-metadata';

import { once } from 'node:events';
import http from 'node:http';

import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { Server } from '@nestjs/microservices';
import { WsAdapter } from '@nestjs/platform-ws';
import { MessageBody, SubscribeMessage, WebSocketGateway, WebSocketServer, WsException } from '@nestjs/websockets';
import { concat, from, map, of, throwError } from 'rxjs';

import { decorateMethod, decorateProperty } from './decorate.mjs';
import { endWithParent } from './lifetime.mjs';

class Gateway {
  echo(data) {
    return { event: 'echoed', data };
  }

  bare(data) {
    return data;
  }

  nothing() {}

  failText() {
    throw new WsException('refused');
  }

  failObject() {
    throw new WsException({ status: 404, message: 'nope' });
  }

  failPlain() {
    throw new Error('a secret that no caller may see');
  }

  stream(n) {
    return from([...Array(n).keys()]).pipe(map((data) => ({ event: 'item', data })));
  }

  streamFail() {
    return concat(of({ event: 'item', data: 1 }), throwError(() => new WsException('mid')));
  }

  announce(data) {
    for (const client of this.server.clients) client.send(JSON.stringify({ event: 'news', data }));
  }
}

WebSocketGateway({ path: '/' })(Gateway);
decorateProperty(Gateway, 'server', WebSocketServer());
const events = {
  echo: 'echo',
  bare: 'bare',
  nothing: 'nothing',
  failText: 'fail.text',
  failObject: 'fail.object',
  failPlain: 'fail.plain',
  stream: 'stream',
  streamFail: 'stream.fail',
  announce: 'announce',
};
for (const [name, event] of Object.entries(events)) {
  MessageBody()(Gateway.prototype, name, 0);
  decorateMethod(Gateway, name, SubscribeMessage(event));
}

/** The microservice that a gateway can live in without any transport of its own. */
class Nothing extends Server {
  listen(callback) {
    callback();
  }

  close() {}
}

class GatewayModule {}
Module({ providers: [Gateway] })(GatewayModule);

// A hybrid application would need an HTTP framework; the server below is all a gateway uses.
const app = await NestFactory.createMicroservice(GatewayModule, { strategy: new Nothing(), logger: false });
const server = http.createServer();
app.useWebSocketAdapter(new WsAdapter(server));
endWithParent(() => server.closeAllConnections());
await app.listen();
await once(server.listen(Number(process.argv[2] ?? 0), '127.0.0.1'), 'listening');
console.log(`ws://127.0.0.1:${server.address().port}/`);
console.log('ready');
