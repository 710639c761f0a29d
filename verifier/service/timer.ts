/** Does something again and again, and keeps no process alive for it. @returns what ends it */
export function repeat(milliseconds: number, action: () => void): () => void {
  const timer = setInterval(action, milliseconds).unref();
  return () => clearInterval(timer);
}
