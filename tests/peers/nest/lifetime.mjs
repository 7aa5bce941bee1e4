/**
 * A peer never outlives the program that started it: it ends on SIGTERM, and when its
 * standard input closes, which also happens when that program is killed.
 *
 * So start peers with a pipe as their input: on /dev/null they end at once.
 */
export function endWithParent(close = async () => {}) {
  let ending = false;
  const end = async () => {
    if (ending) return;
    ending = true;
    try {
      await close();
    } finally {
      process.exit(0);
    }
  };
  process.on('SIGTERM', end);
  process.stdin.on('end', end).on('close', end).on('error', end).resume();
}
