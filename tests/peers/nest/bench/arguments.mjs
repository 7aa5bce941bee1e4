/** The command line both benchmark peers share: `[PORT] [--validation]`, port 0 by default. */
import { parseArgs } from 'node:util';

export function benchArguments(options = {}) {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  return { port: Number(positionals[0] ?? 0), ...values };
}
