/**
 * NestJS in the TCP benchmark: `node nest.mjs [PORT] [--validation]` prints `ready PORT`.
 *
 * `--validation` puts a ValidationPipe on `orders.place`, with `transform: true`, so that
 * the handler gets instances of the DTO classes, and data that does not fit is
 * refused: what the documentation of NestJS recommends, and what a typed handler of ours
 * does. Without it the handler gets whatever JSON.parse made. The log is off.
 */
import 'reflect-metadata';

import { Controller, Module, UsePipes, ValidationPipe } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { MessagePattern, RpcException, Transport } from '@nestjs/microservices';
import { Type } from 'class-transformer';
import {
  IsArray,
  IsBoolean,
  IsInt,
  IsNumber,
  IsOptional,
  IsString,
  ValidateNested,
} from 'class-validator';

import { decorateMethod, decorateProperty } from '../decorate.mjs';
import { endWithParent } from '../lifetime.mjs';
import { benchArguments } from './arguments.mjs';

class Item {}
decorateProperty(Item, 'sku', IsString());
decorateProperty(Item, 'quantity', IsInt());
decorateProperty(Item, 'price', IsNumber());

class Order {}
decorateProperty(Order, 'id', IsInt());
decorateProperty(Order, 'customer', IsString());
decorateProperty(Order, 'items', IsArray(), ValidateNested({ each: true }), Type(() => Item));
decorateProperty(Order, 'note', IsOptional(), IsString());
decorateProperty(Order, 'express', IsBoolean());

class Bench {
  sum(numbers) {
    return numbers.reduce((total, number) => total + number, 0);
  }

  place(order) {
    const total = order.items.reduce((sum, item) => sum + item.quantity * item.price, 0);
    return { id: order.id, total, lines: order.items.length };
  }
}

function validate(method, payload) {
  // The type a compiler would have recorded: it tells the pipe which class to build.
  Reflect.defineMetadata('design:paramtypes', [payload], Bench.prototype, method);
  const exceptionFactory = (errors) =>
    new RpcException({ status: 400, message: errors.map(String).join('; ') });
  decorateMethod(Bench, method, UsePipes(new ValidationPipe({ transform: true, exceptionFactory })));
}

const { port, validation } = benchArguments({ validation: { type: 'boolean', default: false } });
decorateMethod(Bench, 'sum', MessagePattern('math.sum'));
decorateMethod(Bench, 'place', MessagePattern('orders.place'));
if (validation) validate('place', Order);
Controller()(Bench);

class BenchModule {}
Module({ controllers: [Bench] })(BenchModule);

const app = await NestFactory.createMicroservice(BenchModule, {
  transport: Transport.TCP,
  options: { host: '127.0.0.1', port },
  logger: false,
});
endWithParent(() => app.close());
await app.listen();
console.log(`ready ${app.unwrap().address().port}`);
