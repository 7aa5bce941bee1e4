/** Decorators applied by hand, as a TypeScript compiler would: these peers need no build. */

export function decorateMethod(type, name, ...decorators) {
  const descriptor = Object.getOwnPropertyDescriptor(type.prototype, name);
  for (const decorator of decorators.toReversed()) decorator(type.prototype, name, descriptor);
  Object.defineProperty(type.prototype, name, descriptor); // some put another function there
}

export function decorateProperty(type, name, ...decorators) {
  for (const decorator of decorators.toReversed()) decorator(type.prototype, name);
}
